# `make` lists the targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

TOOL := go tool -modfile=internal/tools/go.mod
LINT := go tool -modfile=$(CURDIR)/internal/tools/lint/go.mod golangci-lint
# Modules with tests that `make test` runs; internal/consumer has a target of its own.
MODULES := . internal/tools $(patsubst %/go.mod,%,$(wildcard internal/e2e/go.mod))
OTHER_MODULES := $(filter-out .,$(MODULES)) internal/consumer
COLLECTOR := _build/otelcol-ebpfpackets
FULL := _build/full/otelcol-ebpfpackets-full
BPF := $(filter-out bpf/headers/%,$(wildcard bpf/*.c bpf/*.h bpf/*/*.c bpf/*/*.h))
# What the module has to compile on: the receiver counts on the first two, and says that it does not on the others.
PLATFORMS := linux/amd64 linux/arm64 linux/s390x darwin/arm64 windows/amd64
# What the collectors are made of.
SOURCES := $(shell find . -name '*.go' -not -name '*_test.go' -not -path './_build/*' -not -path './internal/tools/*') \
	$(wildcard internal/kernel/*.o) go.mod go.sum

.PHONY: help
help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

##@ Use

.PHONY: run
run: $(COLLECTOR) _build/run ## show this machine's traffic: flows, totals, sampled packets (root or sudo; Ctrl-C ends it)
	@exec _build/run $(COLLECTOR) examples/run.yaml _build/otlp.jsonl

_build/run: $(wildcard internal/tools/run/*.go)
	@mkdir -p _build
	@go -C internal/tools build -o $(CURDIR)/$@ ./run

.PHONY: collector
collector: $(COLLECTOR) ## build ./_build/otelcol-ebpfpackets with ocb from builder-config.yaml

$(COLLECTOR): builder-config.yaml $(SOURCES)
	@echo "building $@ with ocb: the first time it downloads and compiles the Collector, about four minutes on two cores"
	@start=$$SECONDS; mkdir -p _build; \
	$(TOOL) builder --config builder-config.yaml >_build/ocb.log 2>&1 || { cat _build/ocb.log; exit 1; }; \
	echo "built $@ in $$((SECONDS - start)) s"

.PHONY: collector-full
collector-full: $(FULL) ## build ./_build/full/otelcol-ebpfpackets-full with ocb: the manifest for fleets (minutes more)

$(FULL): examples/distribution/builder-config.yaml $(SOURCES)
	@echo "building $@ with ocb: the first time it downloads and compiles the SDKs of the clouds, about four minutes on two cores beyond those of make collector"
	@start=$$SECONDS; mkdir -p _build; \
	$(TOOL) builder --config $< >_build/ocb-full.log 2>&1 || { cat _build/ocb-full.log; exit 1; }; \
	echo "built $@ in $$((SECONDS - start)) s"

##@ Ship

ARCHITECTURES := amd64 arm64

# $(call image,directory with the collector's source,its name,options). The tag is VERSION, or the version that the program says.
# ocb has built this machine's program just as the others are built.
define image
	@for arch in $(ARCHITECTURES); do \
		mkdir -p _build/image/$$arch; \
		if [ "$$arch" = "$$(go env GOHOSTARCH)" ]; then cp $< _build/image/$$arch/$(2); continue; fi; \
		echo "building $(2) for $$arch"; \
		CGO_ENABLED=0 GOOS=linux GOARCH=$$arch go build -C $(1) -trimpath -ldflags="-s -w" -o $(CURDIR)/_build/image/$$arch/$(2) .; \
	done
	@go -C internal/tools build -o $(CURDIR)/_build/image/pack ./image
	@_build/image/pack -o _build/$(2).image.tar -name $(2) -version "$(or $(VERSION:v%=%),$$($< --version | cut -d' ' -f3))" \
		-revision "$$(git rev-parse HEAD)" -created "$$(git log -1 --format=%cI)" $(3) $(ARCHITECTURES:%=_build/image/%/$(2))
	@echo "packed _build/$(2).image.tar: examples/container/README.md says how to load it"
endef

.PHONY: image
image: $(COLLECTOR) ## pack the collector for agents as an OCI image, amd64 and arm64; no container engine needed
	$(call image,_build,otelcol-ebpfpackets,-capabilities -config examples/container/config.yaml)

.PHONY: image-full
image-full: $(FULL) ## the same of the collector for fleets, without file capabilities
	$(call image,_build/full,otelcol-ebpfpackets-full,)

##@ Change

.PHONY: generate
generate: ## make what is committed but generated: BPF objects and bindings, receiver/metadata.yaml and its Go code; as root, count verified instructions
	@command -v clang-19 >/dev/null || { echo "needs clang-19 and llvm-19 (apt-get install clang-19 llvm-19)"; exit 1; }
	@cp metadata.yaml receiver/metadata.yaml
	@go generate ./internal/kernel ./receiver
	@.ci/instructions

.PHONY: fmt
fmt: ## format Go and C
	@for m in . $(OTHER_MODULES); do (cd $$m && $(LINT) fmt ./...); done
	@clang-format-19 -i $(BPF)

.PHONY: test
test: $(COLLECTOR) $(FULL) ## run every test that the caller's privileges allow, and say at the end what was left out
	@.ci/test $(MODULES)

.PHONY: soak
soak: $(COLLECTOR) ## for FOR (30m) let traffic, interfaces and namespaces come and go, and see that nothing of the collector grows (root)
	@EBPFPACKETS_PRIVILEGED=1 EBPFPACKETS_SOAK=$(or $(FOR),30m) go -C internal/e2e test -count=1 -timeout 0 -v -run '^TestNothingGrows$$' .

.PHONY: kernels
kernels: $(COLLECTOR) ## load, attach and count on the kernels of the matrix, under qemu; KERNELS="6.1 backports" chooses some
	@EBPFPACKETS_KERNELS="$(KERNELS)" go test -count=1 -v -run '^TestKernels$$' ./internal/kernelmatrix

.PHONY: fuzz
fuzz: ## fuzz each decoder for FUZZTIME (20s)
	@.ci/fuzz $(or $(FUZZTIME),20s)

.PHONY: bench
bench: ## print what a packet costs, beside a reference of the usual design, in one run (root)
	@go test -run '^$$' -bench . -benchmem ./...

##@ Check: what CI runs

CHECKS := generated format vet lint scripts licences vulnerabilities consumer collector-full test fuzz

.PHONY: check
check: ## everything CI runs, and nothing else: .ci/run calls it
	@for step in $(CHECKS); do \
		start=$$SECONDS; echo "== $$step"; \
		$(MAKE) $$step || { echo "== $$step failed"; exit 1; }; \
		echo "== $$step passed in $$((SECONDS - start)) s"; \
	done

.PHONY: generated
generated: ## generated files are what `make generate` makes of their sources
	@.ci/unchanged $(MAKE) generate

.PHONY: format
format: ## C is formatted, and so is Go
	@clang-format-19 --dry-run -Werror $(BPF)
	@unformatted=$$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l); \
	[ -z "$$unformatted" ] || { echo "not formatted (make fmt): $$unformatted"; exit 1; }

.PHONY: vet
vet: ## go vet for each platform that the module has to compile on
	@for p in $(PLATFORMS); do \
		echo "vet $$p"; CGO_ENABLED=0 GOOS=$${p%/*} GOARCH=$${p#*/} go vet ./...; \
	done
	@for m in $(OTHER_MODULES); do echo "vet $$m"; go -C $$m vet ./...; done

.PHONY: lint
lint: ## golangci-lint
	@echo "golangci-lint: the first time it is downloaded and compiled, about two minutes on two cores"
	@for m in . $(OTHER_MODULES); do (cd $$m && $(LINT) run ./...); done

.PHONY: scripts
scripts: ## shellcheck
	@shellcheck .ci/run .ci/licences .ci/vulnerabilities .ci/instructions .ci/missing .ci/test .ci/fuzz .ci/unchanged testdata/pcap/capture.sh

.PHONY: licences
licences: ## every module that go.mod requires has an allowed licence
	@.ci/licences

.PHONY: vulnerabilities
vulnerabilities: ## known vulnerabilities in what the receiver calls; says so where the database cannot be reached
	@.ci/vulnerabilities

.PHONY: consumer
consumer: ## the module builds outside of this tree: with one gomod line, without clang and cgo, and from its zip
	@go -C internal/consumer test -count=1 -v ./...

##@ Release

.PHONY: release-check
release-check: ## what a tag needs beside a green CI: VERSION=v0.1.0
	@go -C internal/tools run ./release "$(CURDIR)" "$(VERSION)"
	@$(MAKE) generated licences builds consumer
	@go test -count=1 -run '^TestOnlyTheFactoryAndTheConfigurationAreExported$$' .
	@echo "$(VERSION) can be tagged, if CI is green at $$(git rev-parse --short HEAD)"

.PHONY: builds
builds: ## compile for each platform
	@for p in $(PLATFORMS); do \
		echo "build $$p"; CGO_ENABLED=0 GOOS=$${p%/*} GOARCH=$${p#*/} go build ./...; \
	done

.PHONY: clean
clean: ## remove what was built
	@rm -rf _build
