# Everything here works rootless and offline once the modules are there, except e2e, which needs Linux and root.
# Only Go and make are needed for run and test. Tools that check needs go into ./bin, never anywhere else.

GO        ?= go
export GO
LINT_VER  := v2.15.0
LINT      := bin/golangci-lint-$(LINT_VER)
VERSION   ?= $(or $(shell git describe --tags --always --dirty 2>/dev/null),dev)
BUILD     := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)"
MODULES   := . interop bench/report
FOREIGN   := darwin/arm64 windows/amd64 freebsd/amd64 linux/arm
FUZZTIME  ?= 10s
# The profile in cmd/detour is for the binary; what only looks at the code, or tests it, need not compile all of Go anew.
NO_PGO    := GOFLAGS="$(GOFLAGS) -pgo=off"
# Handshakes of the soak, logins of the storm.
SOAK      ?= 100000
LOGINS    ?= 4000
# What the e2e target runs unless SCENARIOS says otherwise: everything that this version supports.
SCENARIOS ?= first a b c d e f g i j m n o p q

.PHONY: attack storm run build check fmt lint vet cross tidy pgo pgo-check test soak fuzz interop e2e bench clean proxies release image docs acme
.DEFAULT_GOAL := build

run: build ## start a relay: ADMIT=any opens it, ARGS= adds flags
	./bin/detour serve $(if $(ADMIT),--admit $(ADMIT)) $(ARGS)

build: ## bin/detour, static
	$(BUILD) -o bin/detour ./cmd/detour

check: lint vet cross tidy pgo-check ## everything that needs no test to run

fmt: $(LINT) ## format all Go files
	$(LINT) fmt

lint: $(LINT) ## format, style and the import arrows
	$(LINT) fmt --diff
	set -e; for m in $(MODULES); do (cd $$m && $(NO_PGO) $(CURDIR)/$(LINT) run ./...); done

vet:
	set -e; for m in $(MODULES); do (cd $$m && $(NO_PGO) $(GO) vet ./...); done

cross: ## the other systems, tests included, and one 32-bit build
	set -e; for p in $(FOREIGN); do echo "vet $$p"; $(NO_PGO) CGO_ENABLED=0 GOOS=$${p%/*} GOARCH=$${p#*/} $(GO) vet ./...; done
	GOOS=linux GOARCH=arm64 $(BUILD) -o /dev/null ./cmd/detour

tidy: ## go.mod and go.sum say what the code imports, no more and no less
	set -e; for m in $(MODULES); do (cd $$m && $(GO) mod tidy -diff); done

pgo: ## cmd/detour/default.pgo anew, by running the relay under load; needs bash and curl
	./scripts/pgo.sh make

pgo-check: ## the profile still does what it is for
	./scripts/pgo.sh check

test: ## all tests, with the race detector where there is a C compiler for it
	$(NO_PGO) ./scripts/test.sh -timeout 10m ./...
	cd bench/report && $(GO) test ./...

soak: ## SOAK handshakes while certificates are replaced without a pause, each served chain checked; 2,000 in seconds
	$(NO_PGO) DETOUR_SOAK=$(SOAK) ./scripts/test.sh -count=1 -timeout 3h -v -run TestHandshakeSoak ./internal/cert

storm: build ## LOGINS logins while the certificate is replaced every second: none may fail
	./scripts/storm.sh $(LOGINS)

attack: build ## strangers against a relay on loopback: floods in bounded memory, then a quiet pair beside each attack, 2 minutes
	$(NO_PGO) DETOUR_ATTACK=1 $(GO) test -count=1 -v -run 'Flood|LargeLogins|TableMemory' ./internal/admit ./internal/daemon ./internal/listen
	./scripts/attack.sh

fuzz: ## each fuzz target for FUZZTIME
	./scripts/fuzz.sh $(FUZZTIME)

interop: ## against real Tailscale client and server code
	cd interop && $(GO) test -tags ts_debug_websockets -timeout 15m ./...

acme: ## certificates from a real ACME server (Pebble, built into bin/), about two minutes
	$(NO_PGO) ./scripts/acme.sh

e2e: ## real tailscaled clients in the test bed at E2E_BED; SCENARIOS= chooses; root on Linux
	@test -n "$(E2E_BED)" || { echo "e2e: E2E_BED is not set; hint: make e2e E2E_BED=/path/to/the/bed" >&2; exit 2; }
	$(MAKE) build
	E2E_BED="$(E2E_BED)" ./e2e/run.sh $(SCENARIOS)

proxies: ## the recipes of docs/proxies with the real nginx, HAProxy and Caddy; root on Debian installs what is missing
	$(NO_PGO) ./scripts/proxies.sh

bench: ## beside derper on this machine, about 20 minutes: docs/benchmarks.md and its plots; settings are in the script
	./bench/compare.sh

release: ## dist/: static binaries in archives, and images for docker load; VERSION= names them
	VERSION=$(VERSION) ./scripts/release.sh

image: ## the image unpacked and run by chroot as Docker would, its Dockerfile and the unit linted; root on Linux
	VERSION=$(VERSION) $(NO_PGO) ./scripts/image.sh

docs: build ## runs the commands in README and docs/deploy, in English and Chinese
	DETOUR_DOCS=$(CURDIR)/bin/detour $(NO_PGO) $(GO) test -count=1 -run Commands ./docs

clean:
	rm -rf bin dist

$(LINT):
	GOBIN=$(CURDIR)/bin $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VER)
	mv bin/golangci-lint $@
