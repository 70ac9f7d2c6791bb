# Everything here runs on a Debian machine with Go, git and make. What needs a
# swarm needs root, and installs the packages that are missing.

SHELL = /bin/bash
FUZZTIME = 5s
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: build demo test test-fast fuzz lint bench lab lab-down

build: ## bin/waggle
	go build -trimpath -ldflags "-s -w" -o bin/waggle ./cmd/waggle

demo: build ## the main job on a real swarm, on this machine; ARGS=--exit stops after the transcript
	./bin/waggle demo $(ARGS)

# What a test prints is in test.log; a skipped test is a failure here.
test: ## every test, those on a real swarm too (root)
	@WAGGLE_LAB=1 go test -race -p 2 -count=1 -timeout 45m -v ./... 2>&1 | tee test.log | grep --line-buffered -E '^(--- |ok |FAIL|panic:)' | grep --line-buffered -vE '^--- PASS.*\(0\.0'; \
	status=$${PIPESTATUS[0]}; \
	if [ $$status -ne 0 ]; then grep -E -A60 -- '--- FAIL|panic:|DATA RACE' test.log | grep -v level=DEBUG | tail -400; exit $$status; fi; \
	if grep -E -- '--- SKIP' test.log; then echo 'a test was skipped: run this as root'; exit 1; fi

test-fast: ## the tests that need no root, and what was skipped
	@go test -v ./... | grep -E '^(ok|FAIL|panic)|--- (FAIL|SKIP)' | grep -v 'no test files'

# Go fuzzes one target of one package at a time.
fuzz: ## every fuzz test, FUZZTIME=5s each
	@for pkg in $$(grep -rl --include=*_test.go '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -hoE '^func Fuzz[A-Za-z0-9]*' $$pkg/*_test.go | cut -c6-); do \
	    echo "$$pkg $$f"; go test $$pkg -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x >fuzz.log 2>&1 || { cat fuzz.log; exit 1; }; \
	  done; \
	done; rm -f fuzz.log

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo 'gofmt these'; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...

bench: ## figures beside the docker command line (root)
	go run ./internal/bench

lab: ## a three-node swarm that stays up, to try things by hand (root); ARGS="--spare 1"
	go run ./internal/labctl up $(ARGS)

lab-down: ## remove it, and whatever killed runs left
	go run ./internal/labctl down
