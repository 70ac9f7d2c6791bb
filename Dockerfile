# Waggle's image: one static binary, and the programs it runs: git, git-lfs, and
# ssh for git over SSH.
#
#   docker build -t waggle --build-arg VERSION="$(git describe --tags --always)" .
#
# Without a network: `go mod vendor` and `--build-arg GOFLAGS=-mod=vendor`, or a
# build image whose module cache is full and `--build-arg GOPROXY=off`.
# Everything here also works with the builder that came before BuildKit.

FROM golang:1.26-bookworm AS build
WORKDIR /src
ARG GOFLAGS
ARG GOPROXY
# The modules are a layer of their own: it changes only with go.mod.
COPY go.mod go.sum ./
RUN case "$GOPROXY,$GOFLAGS" in off,* | *-mod=vendor*) ;; *) go mod download ;; esac
COPY . .
ARG VERSION
# No VCS stamp: .git is not in the build context, VERSION says it instead.
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false \
    -ldflags "-s -w ${VERSION:+-X main.release=$VERSION}" -o /out/waggle ./cmd/waggle

FROM debian:bookworm-slim
RUN if ! command -v git || ! command -v ssh || ! [ -e /etc/ssl/certs/ca-certificates.crt ]; then \
      apt-get update && \
      apt-get install -y --no-install-recommends git git-lfs ca-certificates openssh-client && \
      rm -rf /var/lib/apt/lists/*; \
    fi
COPY --from=build /out/waggle /usr/local/bin/waggle

# Root, on purpose. Waggle needs the manager's Docker socket, and who may write
# to it is root on that host already; another user here would need the socket's
# group, which differs from host to host, and would protect nothing. What
# protects the host is who may reach Waggle: signed requests only, roles and
# approvals. To run it as somebody else all the same, set
# `user: "10001:<group of docker.sock>"` and let that user read the secrets.

# waggle.yaml is looked for here, so that is where to mount it.
WORKDIR /etc/waggle
# In a container loopback would be reached by nobody.
ENV WAGGLE_LISTEN=0.0.0.0:8080
EXPOSE 8080

# Alive, not ready: Swarm kills what is unhealthy, and an outage of Slack or
# Redis is no reason to kill a build that runs. /readyz is for monitoring.
HEALTHCHECK --interval=10s --timeout=9s --start-period=30s --retries=3 \
  CMD ["waggle", "ready", "--url", "http://127.0.0.1:8080/healthz"]

ENTRYPOINT ["waggle"]
CMD ["serve"]
