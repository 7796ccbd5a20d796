# `make` alone lists what can be made.

PREFIX     ?= /usr/local
DESTDIR    ?=
UNITDIR    ?= /etc/systemd/system
GO         ?= go
VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
COMMIT     ?= $(shell git rev-parse HEAD 2>/dev/null)
FUZZTIME   ?= 10s
ENGINE     ?= 20.10
NODE       ?= 1
LIVES      ?= 400
STORMS     ?= 20
SEED       ?=
MINUTES    ?= 30
PLUGIN     ?= bin/plugin
DIST       ?= bin/dist
ARCHS      ?= amd64 arm64 armv7
FORMATS    ?= deb rpm tar
BINARY     ?= bin/lanyard
COMPLETER  ?= $(BINARY)
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

BUILDFLAGS  = -trimpath -ldflags '-s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)'
BASHDIR     = $(DESTDIR)$(PREFIX)/share/bash-completion/completions
ZSHDIR      = $(DESTDIR)$(PREFIX)/share/zsh/site-functions
FISHDIR     = $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
MANDIR      = $(DESTDIR)$(PREFIX)/share/man/man1

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/lanyard
	CGO_ENABLED=0 $(GO) build $(BUILDFLAGS) -o bin/lanyard ./cmd/lanyard

.PHONY: build-all
build-all: ## build bin/lanyard-linux-amd64, -arm64 and -armv7
	CGO_ENABLED=0 GOOS=linux GOARCH=amd64 $(GO) build $(BUILDFLAGS) -o bin/lanyard-linux-amd64 ./cmd/lanyard
	CGO_ENABLED=0 GOOS=linux GOARCH=arm64 $(GO) build $(BUILDFLAGS) -o bin/lanyard-linux-arm64 ./cmd/lanyard
	CGO_ENABLED=0 GOOS=linux GOARCH=arm GOARM=7 $(GO) build $(BUILDFLAGS) -o bin/lanyard-linux-armv7 ./cmd/lanyard

.PHONY: dist
dist: ## build packages, tarballs, SBOM and checksums in bin/dist; ARCHS="amd64 arm64 armv7" FORMATS="deb rpm tar"
	@GO='$(GO)' VERSION='$(VERSION)' COMMIT='$(COMMIT)' ARCHS='$(ARCHS)' FORMATS='$(FORMATS)' sh dist/package/build.sh '$(DIST)'

.PHONY: plugin
plugin: ## build bin/plugin for `docker plugin create`; PLUGIN=DIR for another folder
	rm -rf $(PLUGIN)
	install -d $(PLUGIN)/rootfs/run $(PLUGIN)/rootfs/var/lib/lanyard
	ln -s ../run $(PLUGIN)/rootfs/var/run
	CGO_ENABLED=0 $(GO) build $(BUILDFLAGS) -o $(PLUGIN)/rootfs/lanyard ./cmd/lanyard
	install -m 644 dist/plugin/config.json $(PLUGIN)/config.json
	@echo
	@echo "To have Docker run it, instead of the unit, on each host:"
	@echo "    mkdir -p /var/lib/lanyard"
	@echo "    docker plugin create lanyard $(PLUGIN)"
	@echo "    docker plugin enable lanyard"
	@echo "    docker network create -d lanyard:latest ..."

# Builds only where there is no binary, so that `sudo make install` needs no Go.
bin/lanyard:
	$(MAKE) build

.PHONY: install
install: $(BINARY) ## install binary, units, man pages and completions; starts nothing
	install -D -m 755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/lanyard
	install -d $(DESTDIR)$(UNITDIR) $(MANDIR) $(BASHDIR) $(ZSHDIR) $(FISHDIR)
	sed 's|/usr/local/bin|$(PREFIX)/bin|' dist/systemd/lanyard.service > $(DESTDIR)$(UNITDIR)/lanyard.service
	install -m 644 dist/systemd/lanyard.socket $(DESTDIR)$(UNITDIR)/lanyard.socket
	chmod 644 $(DESTDIR)$(UNITDIR)/lanyard.service
	install -m 644 man/*.1 $(MANDIR)
	$(COMPLETER) completion bash > $(BASHDIR)/lanyard
	$(COMPLETER) completion zsh > $(ZSHDIR)/_lanyard
	$(COMPLETER) completion fish > $(FISHDIR)/lanyard.fish
	@echo
	@echo "Nothing was started. To start lanyard now and at every boot:"
	@echo "    systemctl daemon-reload"
	@echo "    systemctl enable --now lanyard.socket lanyard.service"

# systemctl cannot stop and disable a unit whose file is gone.
.PHONY: uninstall
uninstall: ## remove what install installed; the state stays
	@test -n "$(DESTDIR)" || ! { systemctl -q is-active lanyard.socket lanyard.service || systemctl -q is-enabled lanyard.socket lanyard.service; } 2>/dev/null || { \
		echo "lanyard runs, or is to run at the next boot. First:"; echo "    systemctl disable --now lanyard.socket lanyard.service"; exit 1; }
	rm -f $(DESTDIR)$(PREFIX)/bin/lanyard
	rm -f $(DESTDIR)$(UNITDIR)/lanyard.service $(DESTDIR)$(UNITDIR)/lanyard.socket
	rm -f $(addprefix $(MANDIR)/,$(notdir $(wildcard man/*.1)))
	rm -f $(BASHDIR)/lanyard $(ZSHDIR)/_lanyard $(FISHDIR)/lanyard.fish
	@echo
	@echo "To let systemd forget the units:"
	@echo "    systemctl daemon-reload"
	@echo "The state was kept; to remove it, once no network of lanyard's is left in Docker:"
	@echo "    rm -r /var/lib/lanyard"

.PHONY: demo
demo: ## two Docker hosts and a LAN node on a VLAN trunk, the reference scenario, a verdict; ENGINE=20.10|28.5
	$(GO) run ./e2e/ctl demo --engine $(ENGINE)

.PHONY: lab-up
lab-up: ## the same hosts, without the scenario
	$(GO) run ./e2e/ctl up --engine $(ENGINE)

.PHONY: lab-shell
lab-shell: ## a shell on a host of the demo: NODE=1, 2 or lan
	@$(GO) build -o bin/labctl ./e2e/ctl && exec bin/labctl shell $(NODE)

.PHONY: lab-down
lab-down: ## end the demo's hosts
	$(GO) run ./e2e/ctl down

.PHONY: test
test: ## everything: lint, unit, kernel, engines, lab; installs what it needs
	@mkdir -p bin && $(GO) build -o bin/suite ./e2e/suite && exec bin/suite -log bin/test.log

.PHONY: test-engine29
test-engine29: ## the tests of package engines on a pre-release of Docker 29; builds it the first time, some minutes
	LANYARD_ENGINES=29 $(GO) test -count=1 -tags lab -timeout 40m ./e2e/engines

.PHONY: chaos
chaos: ## containers that come and go while lanyard, Docker and the parent are taken away, STORMS=20 of 20 seconds
	LANYARD_CHAOS=$(STORMS) LANYARD_SEED=$(SEED) $(GO) test -count=1 -tags lab -v -timeout 3h -run TestChaos ./e2e/engines

.PHONY: load
load: ## 500 containers on 50 networks, 24 commands in flight, for MINUTES=30 of them; prints the figures of docs/reliability.md
	LANYARD_LOAD=$(MINUTES) LANYARD_ENGINES=28.5 $(GO) test -count=1 -tags lab -v -timeout 3h -run TestLoad ./e2e/engines

.PHONY: soak
soak: ## containers that come and go on short DHCP leases, with faults, LIVES=400 of them, 15 minutes
	LANYARD_SOAK=$(LIVES) LANYARD_ENGINES=28.5 $(GO) test -count=1 -tags lab -v -timeout 3h -run TestDHCPSoak ./e2e/engines

.PHONY: bench
bench: ## lanyard beside Docker's own on two engines, 40 minutes; writes docs/benchmarks.md; ONLY=addresses|drivers|handlers|dhcp
	$(GO) run ./e2e/bench $(if $(ONLY),-only $(ONLY)) -o docs/benchmarks.md

.PHONY: docs
docs: ## write docs/cli.md, docs/options.md and man/ anew from the binary
	$(GO) generate ./...

.PHONY: lint
lint: ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "not formatted:"; echo "$$unformatted"; exit 1; }
	$(GO) vet -tags lab ./...
	$(GO) run $(STATICCHECK) -tags lab ./...

.PHONY: unit
unit: ## unit and script tests with the race detector; root makes its own namespaces
	$(GO) test -race ./internal/... ./cmd/...

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME (10s)
	@set -e; grep -ro '^func Fuzz[A-Za-z0-9]*' --include='*_test.go' internal cmd | while IFS=: read -r file func; do \
		echo "$$(dirname $$file) $${func#func }"; \
		$(GO) test -run '^$$' -fuzz "^$${func#func }\$$" -fuzztime $(FUZZTIME) ./$$(dirname $$file); \
	done

.PHONY: clean
clean: ## remove what build made
	rm -rf bin
