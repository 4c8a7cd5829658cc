# SPDX-License-Identifier: BSD-2-Clause
# Everything a newcomer types. `make setup` is quick when there is nothing to do.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
API := build/api
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

DEBIAN_BUILD := gcc clang libbpf-dev libxdp-dev libelf-dev linux-libc-dev python3-dev python3-venv
DEBIAN_RUN := bpftool iproute2 procps util-linux nginx-light haproxy ethtool nftables libpcap0.8
DEBIAN_TEST := libclang-rt-14-dev wrk tshark
DEBIAN_BENCH := dpdk-dev librte-net-af-xdp23 librte-mempool-ring23 libdpdk-dev libcuckoo-dev \
	pkg-config valgrind conntrackd

NATIVE_SOURCES := $(wildcard csrc/*.c csrc/*.h csrc/bpf/*.c csrc/bpf/*.h) \
	$(wildcard pyxdp_gossip/_native*.p* pyxdp_gossip/_rings.p*) pyxdp_gossip/_libxdp_build.py \
	setup.py pyproject.toml

.PHONY: help setup demo test test-full test-zerocopy guest sim lint stubs docs bench bench-setup \
	report scaling clean

help:
	@echo "make setup | demo | test | test-zerocopy | test-full | sim | bench | report |" \
		"scaling | lint | docs | stubs | clean"

setup: $(VENV)/.built

# Installs those of $(1) that are missing. Asks dpkg, not a stamp: a stamp would outlive a package
# that was removed.
define install_debian
@missing=""; for package in $(1); do \
	dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q 'ok installed' \
		|| missing="$$missing $$package"; done; \
if [ -n "$$missing" ]; then \
	echo "installing:$$missing"; \
	$(SUDO) apt-get update -q && \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive \
		apt-get install -q -y --no-install-recommends $$missing; fi
endef

.PHONY: debian
debian:
	$(call install_debian,$(DEBIAN_BUILD) $(DEBIAN_RUN) $(DEBIAN_TEST))

$(VENV)/.packages: pyproject.toml | debian
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check --upgrade "pip>=24" "setuptools>=77" \
		"cython>=3.1,<4" "cffi>=1.16"
	$(BIN)/python -c 'import tomllib; \
		p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
		print("\n".join(p["dependencies"] + p["optional-dependencies"]["dev"]))' \
		> $(VENV)/requirements.txt
	$(BIN)/pip install -q --disable-pip-version-check -r $(VENV)/requirements.txt
	touch $@

$(VENV)/.built: $(VENV)/.packages $(NATIVE_SOURCES) | debian
	$(BIN)/pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@

demo: setup
	$(SUDO) $(BIN)/pyxdp-gossip demo

# Most tests wait more than they compute: two processes and more take turns on the processors.
PYTEST := -m pytest -n auto --maxprocesses 4 --no-loadscope-reorder

# ZEROCOPY=off leaves out the guest in which AF_XDP has zero-copy, and the summary says so.
ZEROCOPY ?=

test: setup lint guest
	$(SUDO) env ZEROCOPY=$(or $(ZEROCOPY),core) $(BIN)/python $(PYTEST) tests

test-zerocopy: guest
	$(SUDO) env ZEROCOPY=$(or $(ZEROCOPY),all) $(BIN)/python -m pytest tests/vm

# The guest's kernel, QEMU and image: fetched and built if they are not there.
guest: setup
	@$(SUDO) env ZEROCOPY=$(ZEROCOPY) $(BIN)/python -m tests.vm

test-full: test test-zerocopy
	$(SUDO) bash tests/demo_matrix.sh

# The load generator, and the systems that the benchmarks compare with.
bench-setup: setup
	$(call install_debian,$(DEBIAN_BENCH))

bench: bench-setup
	for name in lookup sharing instructions xdp forward sweep formats overhead gossip; do \
		$(SUDO) $(BIN)/python -m bench $$name --json bench/results/$$name.json || exit 1; \
	done
	$(BIN)/python -m pytest -q bench/micro --benchmark-json=bench/results/micro.json

# What a host pays in a POP of any size, and docs/scaling.md. Ten minutes, most of them for
# the thousand hosts, and 5 GB; without privileges.
SIMULATE ?= 20,50,100,200,1000
scaling: setup
	$(BIN)/python -m bench scaling --simulate $(SIMULATE) --json bench/results/scaling.json
	$(BIN)/python -m bench report

# docs/benchmarks.md and its plots, of what bench/results/ holds; measures nothing.
report: setup
	$(BIN)/python -m bench report

# The gossip in virtual time, with faults, over many seeds.
SEEDS ?= 1000
FIRST ?= 0
sim: setup
	$(BIN)/pyxdp-gossip sim --seed $(FIRST) --seeds $(SEEDS) --jobs $$(nproc)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The types of what is made at run time; after a change of csrc/stats.h.
stubs: setup
	$(BIN)/python -m tests.counters_stub

# The API reference, of the docstrings.
docs: setup
	$(BIN)/python -W error -m pdoc --docformat google -o $(API) pyxdp_gossip '!pyxdp_gossip.'

clean:
	rm -rf build bench/build $(VENV) *.egg-info pyxdp_gossip/*.so pyxdp_gossip/bpf/*.o \
		pyxdp_gossip/_native.c pyxdp_gossip/_rings.c pyxdp_gossip/_libxdp.c
