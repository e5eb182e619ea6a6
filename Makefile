# Kontiki. `make help` lists what there is.
SHELL := /bin/bash
GO ?= go
PREFIX ?= /usr/local
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# kubectl's own version is told by the linker; the API's stands in apiserver.
KUBERNETES := v1.37.2
LDFLAGS := -s -w -X main.version=$(VERSION) \
	-X k8s.io/component-base/version.gitVersion=$(KUBERNETES)+kontiki \
	-X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37
SHIM := runtime/shim/embedded/kontiki-shim
SHIM_FLAGS := -tags 'seccomp netgo osusergo' -ldflags '-s -w -linkmode external -extldflags -static'
EXAMPLES := bin/examples/web.tar

.PHONY: help build install uninstall test newcomer test-cgroup2 up down bench jepsen jepsen-bugs schedules lint generate verify deps clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: deps $(SHIM) ## build bin/kontiki, with kontiki-shim inside, and the images of the examples
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/kontiki ./cmd/kontiki
	@mkdir -p bin/examples/web
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/examples/web/web ./examples/web
	bin/kontiki image import bin/examples/web --name kontiki.local/web:v1 --entrypoint /web --output bin/examples/web.tar
	@mkdir -p bin/examples/witness
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/examples/witness/witness ./jepsen/witness
	bin/kontiki image import bin/examples/witness --name kontiki.local/witness:v1 --entrypoint /witness --output bin/examples/witness.tar
	@mkdir -p bin/examples/guestbook
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/examples/guestbook/guestbook ./examples/guestbook
	bin/kontiki image import bin/examples/guestbook --name kontiki.local/guestbook:v1 --entrypoint /guestbook --output bin/examples/guestbook.tar

# What tests need of a program beyond the product's: commands that are one version ahead, which a
# rolling upgrade goes to, and a way to damage a replica's memory. The linker sets the one, and
# the other's tag is cmd/kontiki's alone: nothing else is compiled again.
NEXT := bin/next/kontiki
.PHONY: next
next: $(SHIM)
	$(GO) build -trimpath -tags faultinject -ldflags '$(LDFLAGS) -X kontiki/raftstore.commandVersion=2' -o $(NEXT) ./cmd/kontiki

# The shim is built anew each time: Go's own cache decides whether anything changed.
.PHONY: $(SHIM)
$(SHIM): deps
	CGO_ENABLED=1 $(GO) build -trimpath $(SHIM_FLAGS) -o $(SHIM) ./cmd/kontiki-shim

deps: ## install what building needs (Debian and Ubuntu)
	@deploy/install-build-deps

test: build next ## run every test; without root, those that need none
	test/run

install: ## put kontiki, its service of systemd and an example of its options in place (after make build; DESTDIR and PREFIX are heard)
	@test -x bin/kontiki || { echo 'run make build first'; exit 1; }
	install -D -m 755 bin/kontiki '$(DESTDIR)$(PREFIX)/bin/kontiki'
	install -D -m 644 docs/INSTALL.md '$(DESTDIR)$(PREFIX)/share/doc/kontiki/INSTALL.md'
	install -d '$(DESTDIR)/etc/systemd/system' '$(DESTDIR)/etc/kontiki'
	sed 's|/usr/local|$(PREFIX)|g' deploy/kontiki.service > '$(DESTDIR)/etc/systemd/system/kontiki.service'
	@test -e '$(DESTDIR)/etc/kontiki/node.yaml' || install -m 644 deploy/node.yaml '$(DESTDIR)/etc/kontiki/node.yaml'
	@echo 'next: docs/INSTALL.md, from "A secret"'

uninstall: ## take away what install put in place; options and data stay
	rm -f '$(DESTDIR)$(PREFIX)/bin/kontiki' '$(DESTDIR)/etc/systemd/system/kontiki.service' '$(DESTDIR)$(PREFIX)/share/doc/kontiki/INSTALL.md'

newcomer: ## run README's commands in a root folder with nothing but Debian, Go, make and git (debootstrap)
	test/newcomer

test-cgroup2: deps $(SHIM) ## run the tests of cgroups in a virtual machine with cgroup v2 alone (qemu, Debian's kernel)
	test/cgroup2

# With the flags of make build and make test: with others, all would be compiled again.
PROVE := $(GO) test -trimpath -vet=off -count=1 -timeout 12h -v
SCHEDULES ?= 1000
schedules: ## simulated faults: SCHEDULES=1000 schedules of the store, ten times as many of formation (KONTIKI_SEED=n: from that seed on)
	SCHEDULES=$(SCHEDULES) $(PROVE) -run '^TestSchedules$$' ./raftstore
	SCHEDULES=$(SCHEDULES)0 $(PROVE) -run '^TestFormationSchedules$$' ./gossip

SEEDED := unsynced unconfirmed_read credited_read dropped_event sessionless_retry forgotten_vote
jepsen-bugs: ## see whether the schedules find errors that are there on purpose, each within 200
	@for bug in $(SEEDED); do echo "== $$bug"; $(PROVE) -tags seeded_$$bug -run '^TestSeededError$$' ./raftstore || exit 1; done
	@echo "== two_promises"; $(PROVE) -tags seeded_two_promises -run '^TestFormationSchedules$$' ./gossip

# What kontiki jepsen run is run with: twelve minutes of faults. Reports go to bin/jepsen.
SEED ?= $(shell od -An -N4 -tu4 /dev/urandom | tr -d ' ')
define RUNS
--nodes 5 --time 6m --nemesis mix
--nodes 3 --time 1m --nemesis pause,kill --workload register,reads
--nodes 3 --time 1m --nemesis wipe --workload watch,set,create-unique
--nodes 3 --time 1m --nemesis pause-leaders,kill --workload identity,addresses
--nodes 3 --time 1m --nemesis none --workload slow-watch
--nodes 5 --time 1m --nemesis partition-ring,partition-one-way,flapping
--nodes 5 --time 1m --nemesis loss,readdress
endef
export RUNS
.PHONY: jepsen-run jepsen-seeded
jepsen-run: build ## clients and faults in a lab for twelve minutes, with reports in bin/jepsen (SEED=n)
	@rm -rf bin/jepsen && mkdir -p bin/jepsen
	@n=0; while read -r options; do n=$$((n+1)); echo "== $$options"; \
		bin/kontiki jepsen run --seed '$(SEED)' --report bin/jepsen/$$n $$options </dev/null || exit 1; done <<<"$$RUNS"

jepsen-seeded: build ## build errors that are there on purpose, and demand that kontiki jepsen run finds each
	test/jepsen-seeded

ROUNDS ?= 50
jepsen: build next schedules jepsen-bugs jepsen-run ## prove it at length: ROUNDS=50 faults each, in clusters of 3 and of 5 (KONTIKI_SEED=n repeats a run's order)
	test/programs
	@for nodes in 3 5; do \
		echo "== clusters of $$nodes, $(ROUNDS) rounds"; \
		KONTIKI_BIN="$(CURDIR)/bin/kontiki" KONTIKI_NEXT_BIN="$(CURDIR)/$(NEXT)" KONTIKI_ROUNDS=$(ROUNDS) KONTIKI_NODES=$$nodes \
			KONTIKI_LONG=1 $(GO) test -tags seccomp -count=1 -timeout 4h -v -run '^(TestGround|TestLoad|TestLeaderFaults|TestLeadershipMovesFromAFailingController|TestFormation.*|TestReaddressing|TestVotersAreReplaced|TestVoterZones|TestRollingUpgrade|TestNetworkFaults|TestNetworkOfHostGateways|TestManyPodsOutliveTheirNode)$$' ./jepsen/acceptance || exit 1; \
	done

up: build ## start a cluster of three virtual hosts on this machine, and an application in it
	bin/kontiki lab up
	examples/guestbook/start

down: ## stop it and remove everything it made
	bin/kontiki lab down

ONLY ?=
LENGTH ?= normal
bench: build ## measure everything beside its peers: one table (ONLY=store,api for a part, LENGTH=quick or long)
	$(GO) build -trimpath -o bin/bench ./bench
	bin/bench -only '$(ONLY)' -length '$(LENGTH)' -json bin/bench.json

lint: ## gofmt, vet, staticcheck, and the rules of this house
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo 'run gofmt -w on these'; exit 1; }
	$(GO) vet -tags seccomp ./...
	$(GO) tool staticcheck -tags seccomp ./...
	$(GO) test ./internal/house

generate: ## write generated code anew
	$(GO) generate ./...

verify: lint ## lint, and fail if generated code or go.mod is stale
	$(GO) mod tidy -diff
	cd test/clients && $(GO) mod tidy -diff
	$(GO) mod verify
	@git diff --quiet || { echo 'commit your changes first: verify compares generated code with the commit'; exit 1; }
	$(MAKE) generate
	@git diff --exit-code || { echo 'generated code is stale: commit what make generate wrote'; exit 1; }

clean: ## remove what build made
	rm -rf bin $(SHIM)
