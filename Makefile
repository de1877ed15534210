# weavepy: every target sets up what it needs by itself, on a fresh Debian 12, as root.

PYTHON ?= $(shell test -x /usr/bin/python3 && echo /usr/bin/python3 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
BUILT := $(VENV)/.built

APT := build-essential python3-dev python3-venv libssl-dev libsodium23 iproute2 iptables nftables \
       iperf3 iputils-ping tcpdump ethtool procps conntrack \
       golang-go golang-github-weaveworks-mesh-dev golang-golang-x-crypto-dev golang-golang-x-sys-dev
ifeq ($(shell uname -m),x86_64)
APT += libipsec-mb-dev
endif

APT_BENCH := wireguard-tools wireguard-go nebula tinc openvpn openssl n2n fastd dnsperf dnsmasq-base

# A peer for the tests, made of the original gossip library. Debian's Go and its libraries: nothing is downloaded.
MESHPEER := build/meshpeer
GO := GO111MODULE=off GOFLAGS= GOPATH=/usr/share/gocode GOCACHE=$(CURDIR)/build/go-cache CGO_ENABLED=0 /usr/bin/go

NATIVE := setup.py weavepy/_fastpath.pyx $(wildcard weavepy/native/*)

.PHONY: setup demo test test-deep test-asan bench bench-full lint wheel clean

setup: $(BUILT) $(MESHPEER)

$(VENV)/.apt: Makefile
	@missing=$$(for p in $(APT); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; fi
	@mkdir -p $(VENV) && touch $@

$(STAMP): $(VENV)/.apt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade 'setuptools>=77' wheel 'cython>=3.1'
	$(BIN)/python -m pip install -q --no-build-isolation -e '.[dev]'
	@touch $@ && touch $(BUILT)

$(BUILT): $(STAMP) $(NATIVE)
	$(BIN)/python setup.py -q build_ext --inplace
	@touch $@

$(MESHPEER): $(VENV)/.apt $(wildcard tests/interop/meshpeer/*.go)
	@mkdir -p $(@D)
	cd tests/interop/meshpeer && $(GO) build -o $(CURDIR)/$@ .
	@touch $@

# What only the benchmarks need: peers to compare with, and something to draw with.
$(VENV)/.bench: Makefile pyproject.toml | $(BUILT)
	@missing=$$(for p in $(APT_BENCH); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; fi
	$(BIN)/python -m pip install -q --no-build-isolation -e '.[bench]'
	@touch $@

demo: setup
	$(BIN)/weavepy demo

# Most tests wait for something, so three processes share them. Each takes whole files, whose tests may build on
# each other, in the order of their names: the small ones are last, and keep all busy to the end.
test: setup
	$(BIN)/python -m pytest -m 'not deep' -n 3 --dist loadfile --no-loadscope-reorder

# All tests, for some two hours: thousands of simulated histories are most of it.
test-deep: setup
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --timeout 3600

# The sanitized module stands in for the usual one: it is first in the package's path.
test-asan: setup
	WEAVEPY_SANITIZE=1 $(BIN)/python setup.py -q build_ext --build-lib build/asan --build-temp build/asan-temp
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc \
	$(BIN)/python -c 'import sys, weavepy; weavepy.__path__.insert(0, "build/asan/weavepy"); import pytest, weavepy._fastpath as f; assert "asan" in f.__file__; sys.exit(pytest.main(sys.argv[1:]))' \
	-p no:cacheprovider tests/unit/native tests/unit/wire/test_topology_news.py tests/fuzz/test_native.py

bench: setup $(VENV)/.bench
	@mkdir -p build
	$(BIN)/python -m bench overlay --quick --json build/bench.json --plot build/bench

bench-full: setup $(VENV)/.bench
	@mkdir -p build
	$(BIN)/python -m bench fetch --if-go
	$(BIN)/python -m bench overlay --underlay-gso both --json build/bench-full.json --plot build/bench-full

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint weavepy/_fastpath.pyx
	$(BIN)/mypy
	@unformatted=$$(/usr/bin/gofmt -l tests/interop/meshpeer); \
	if [ -n "$$unformatted" ]; then echo "not as gofmt writes it: $$unformatted"; exit 1; fi
	cd tests/interop/meshpeer && $(GO) vet .

wheel: setup
	$(BIN)/python -m build -q --wheel --no-isolation

clean:
	rm -rf build dist *.egg-info weavepy/*.so weavepy/_fastpath.c
