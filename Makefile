# Millrace. The two commands are `make run` and `make test`; each sets up by itself what it needs.
SHELL := /bin/bash
CARGO ?= cargo
FEATURES := millrace-nic-models/device,millrace-driver/models
# Where the guest lab keeps QEMU, kernels and logs.
export MILLRACE_CACHE ?= $(CURDIR)/.cache/guest

.PHONY: help deps build run test guest-test compat soak fuzz loom gate baseline bench-peers fmt lint ci clean-cache

help: ## This list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

deps: ## Install what is missing through apt (says what and why; starts no service)
	@scripts/deps.sh

build: deps ## Build every program, optimised
	$(CARGO) build --release --workspace --bins --features $(FEATURES)

run: deps ## The demonstration: an L4 load balancer on a modelled 82599, serving real HTTP (STAY=1 leaves it up)
	$(CARGO) build --profile demo -p millrace-tests -p millrace-nic-models -p millrace-l4lb -p millrace --bins --features $(FEATURES)
	@scripts/run.sh

test: deps ## Every test; what cannot run here is skipped by name and counted
	@scripts/test.sh

guest-test: deps ## Linux's and DPDK's drivers on the device models, in QEMU guests (fetches about 600 MB once; ALL=1: the newest kernel too)
	$(CARGO) test -q --workspace --features $(FEATURES) --no-run
	target/debug/guest-lab $(if $(ALL),--all)

compat: deps ## Write docs/compat-nics.md and docs/compat-xdp.md anew, from what drivers in guests and the kernel do
	$(CARGO) test -q --workspace --features $(FEATURES) --no-run
	target/debug/guest-lab --write-compat $(if $(ALL),--all)
	MILLRACE_WRITE_COMPAT=1 $(CARGO) test -q --workspace --features $(FEATURES) --test real_programs

soak: deps ## The long variants of the tests
	MILLRACE_SOAK=1 scripts/test.sh
	target/debug/guest-lab --soak

fuzz: deps ## A million generated programs under the verifier's watch, ten million runs on both engines, the kernel's verdicts
	@scripts/fuzz.sh

# Its own target directory: the flag concerns every crate, and would have the whole workspace built anew each time.
loom: deps ## The buffer depot and the descriptor ring in every order of memory accesses that loom explores
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom $(CARGO) test -p millrace-driver --lib depot
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom $(CARGO) test -p millrace-driver --test loom_ring

gate: deps ## Instructions a packet of the optimised packet path against the committed baseline
	CARGO="$(CARGO)" scripts/gate.sh

baseline: deps ## Write the baseline of this compiler that `make gate` compares with
	$(CARGO) run -q --release -p millrace-bench -- path --write-baseline apps/millrace-bench/baseline.json

bench-peers: deps ## DPDK's ixgbe functions beside ours: fetched from Debian's source package into .cache, built, measured
	scripts/bench-peers.sh $(CURDIR)/.cache/peers || echo "bench-peers: no DPDK here; its rows will say so"
	@mkdir -p $(CURDIR)/.cache/peers
	$(CARGO) run -q --release -p millrace-bench -- path --peers $(CURDIR)/.cache/peers --html $(CURDIR)/.cache/peers/path.html

fmt: ## Format the code
	$(CARGO) fmt --all

lint: ## What CI checks besides the tests
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) check -q -p millrace-driver

clean-cache: ## Remove what the guest lab fetched
	rm -rf .cache
