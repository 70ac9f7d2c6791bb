# Everything here runs on a Debian machine with Go, git and make. What needs a
# swarm needs root, and installs the packages that are missing.

SHELL = /bin/bash
FUZZTIME = 5s
SEEDS = 10000
FIRST = 1
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

# The Docker engines of the lab: system (the default), 20, 26 or 28, optionally with
# +classic or +containerd for the image store. A comma-separated list is assigned to the
# nodes in order, the manager first: docs/engines.md.
ENGINE = $(WAGGLE_LAB_ENGINE)

# The engines beside 28+containerd, and the tests that depend on the engine: pushes, pulls,
# builds, joins, image lists and disk usage. TestEngineTests checks the names.
ENGINES = 20 26 26+containerd 28 20,28+containerd,26 28+containerd,20,26+containerd
ENGINE_TESTS = ^(TestReal.*|TestPushToDeploy|TestFailedDeploysLeaveTheVersionBefore|TestCaptainDefinition|TestBuildSecret|TestRollbackWithAnEmptyRedis|TestPushOutlivesItsRegistry|TestRegistryLife|TestRegistrySetup|TestMigrateToACluster|TestNodeLife|TestScale|TestScaleWarns|TestScaleSaysWhatIsWrong.*|TestCleanNodes|TestDoctor)$$

# What make chaos runs, and how often: see internal/chaos.
SCENARIOS =
KILLS = 200
TIMES = 20

.PHONY: build demo test test-engines test-fast simulate fuzz lint bench chaos lab lab-down

build: ## bin/waggle
	go build -trimpath -ldflags "-s -w" -o bin/waggle ./cmd/waggle

demo: build ## the main job on a real swarm, on this machine; ARGS=--exit stops after the transcript, ENGINE=28+containerd chooses Docker
	WAGGLE_LAB_ENGINE=$(ENGINE) ./bin/waggle demo $(ARGS)

# What a test prints is in test.log; a skipped test is a failure here.
define run_tests
go test -race -count=1 -timeout 45m -v $(1) 2>&1 | tee test.log | grep --line-buffered -E '^(--- |ok |FAIL|panic:)| in place of ' | grep --line-buffered -vE '^--- PASS.*\(0\.0|no tests to run'; \
status=$${PIPESTATUS[0]}; \
if [ $$status -ne 0 ]; then grep -E -A60 -- '--- FAIL|panic:|DATA RACE' test.log | grep -v level=DEBUG | tail -400; exit $$status; fi; \
if grep -E -- '--- SKIP' test.log; then echo 'a test was skipped: run this as root'; exit 1; fi
endef

test: ## every test, those on a real swarm too (root); ENGINE=28+containerd chooses Docker
	@export WAGGLE_LAB=1 WAGGLE_LAB_ENGINE=$(ENGINE); $(call run_tests,-p 2 ./...)

test-engines: ## the tests that depend on the engine, on each of ENGINES (root)
	@export WAGGLE_LAB=1; for engine in $(ENGINES); do \
	  echo "on Docker $$engine"; export WAGGLE_LAB_ENGINE=$$engine; \
	  $(call run_tests,-p 1 -run '$(ENGINE_TESTS)' ./ops/swarm ./ops/registry ./internal/e2e); \
	done

test-fast: ## the tests that need no root, and what was skipped
	@go test -v ./... | grep -E '^(ok|FAIL|panic)|--- (FAIL|SKIP)' | grep -v 'no test files'

simulate: ## the engine on virtual time with faults, SEEDS=10000 histories from seed FIRST=1 on
	go test -count=1 -timeout 0 ./internal/simulate -run '^TestSeeds$$' -v -seeds $(SEEDS) -first $(FIRST)

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

chaos: ## crashes, stops and outages under load (root); SCENARIOS=kill,failpoints KILLS=200 TIMES=20 ARGS="--seed 1"
	WAGGLE_LAB_ENGINE=$(ENGINE) go run ./internal/chaos -scenarios '$(SCENARIOS)' -kills $(KILLS) -times $(TIMES) $(ARGS)

lab: ## a three-node swarm that stays up, to try things by hand (root); ARGS="--spare 1 --engine 28+containerd,20"
	WAGGLE_LAB_ENGINE=$(ENGINE) go run ./internal/labctl up $(ARGS)

lab-down: ## remove it, and whatever killed runs left
	go run ./internal/labctl down
