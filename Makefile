# What there is to do here; `make help` lists it.

CARGO ?= cargo
# The plugins of plugins/, each a crate photondb-plugin-NAME with an executable of that name.
PLUGINS := cidr columnar decimal distances encrypted hnsw ivf memory redb sketch stats timeseries vamana
# Where `make run` keeps its data, and further arguments for `photondb serve`.
DATA ?= data
ARGS ?=
# Seconds for each target of `make fuzz`.
FUZZ_SECONDS ?= 60
# Benchmarks of server/benches that `make bench` runs; all of them if empty. PEERS=1 installs hnswlib, usearch and faiss.
BENCHES ?=
PEERS ?=
# Words that `make race` reads.
RACE_READS ?= 100000000

HOST_TRIPLE := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
TOOLS := .tools
PYTHON := $(TOOLS)/venv/bin/python
# Newer than the requirements once they are installed.
VENV := $(TOOLS)/venv/installed
PEERS_VENV := $(TOOLS)/peers/installed
CAPNPC := $(TOOLS)/capnpc/bin/capnpc-rust
SCHEMAS := $(wildcard ipc-schema/schema/*.capnp)

.PHONY: help run test loom chaos race miri bench fuzz lint schema demo release debug need-compiler need-python
.DEFAULT_GOAL := help

help: ## Lists the targets
	@sed -n 's/^\([a-z]*\):.*## /\1:/p' $(MAKEFILE_LIST) | awk -F: '{ printf "make %-8s %s\n", $$1, $$2 }'

run: release ## Builds everything and serves with the first-party plugins on 127.0.0.1, data in ./data
	exec target/release/photondb serve --data $(DATA) --plugin-dir target/release-plugins $(ARGS)

test: debug $(VENV) ## Builds everything and runs all tests
	CARGO="$(CARGO)" PYTHON="$(PYTHON)" HOST_TRIPLE="$(HOST_TRIPLE)" tests/tools/run-tests

loom: need-compiler ## Runs the models of the lanes through every interleaving (loom)
	RUSTFLAGS="--cfg loom" $(CARGO) test --package photondb-ipc-schema --lib --target-dir target/loom models

race: need-compiler ## Lets a second process rewrite shared memory during RACE_READS=100000000 reads
	PHOTONDB_RACE_READS=$(RACE_READS) $(CARGO) test --package photondb-ipc-schema --release --test racing_writer -- --nocapture

miri: ## Runs what Miri can follow of the shared memory (needs the nightly component miri)
	@$(CARGO) miri --version >/dev/null 2>&1 || { \
		echo "miri: 'rustup toolchain install nightly --component miri', then 'make miri CARGO=\"cargo +nightly\"'"; exit 1; }
	MIRIFLAGS=-Zmiri-disable-isolation $(CARGO) miri test --package photondb-ipc-schema --lib --target-dir target/miri \
		-- lane::tests batch:: layout:: wake::

chaos: debug ## Kills plugins 10,000 times and the server 200 times, at random, and looks for what is left
	PHOTONDB_PLUGIN_KILLS=10000 PHOTONDB_SERVER_KILLS=200 \
		$(CARGO) test -p photondb-tests random -- --test-threads 1 --nocapture

bench: release $(if $(PEERS),$(PEERS_VENV)) ## Measures everything beside its peers (tests/bench/README.md); PEERS=1 installs Python ones first
	RUSTFLAGS="$(RUSTFLAGS) -C target-feature=+crt-static" $(CARGO) build --release --target $(HOST_TRIPLE) -p photondb-bench-plugin
	install -D -m 644 tests/bench/plugin.toml target/release-bench/bench/plugin.toml
	install -m 755 target/$(HOST_TRIPLE)/release/photondb-bench-plugin target/release-bench/bench/
	CARGO="$(CARGO)" BENCHES="$(BENCHES)" tests/tools/bench

fuzz: need-compiler ## Fuzzes every parser of foreign bytes, FUZZ_SECONDS=60 each, and prints a table
	@tests/tools/need c++
	CARGO="$(CARGO)" HOST_TRIPLE="$(HOST_TRIPLE)" FUZZ_SECONDS=$(FUZZ_SECONDS) tests/tools/fuzz

lint: need-compiler ## Checks format, clippy, docs, and that generated code is current
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --workspace --no-deps
	@$(CARGO) fetch --quiet --locked --target $(HOST_TRIPLE) --manifest-path tests/fuzz/Cargo.toml \
		|| { echo "lint: run 'cargo fetch --manifest-path tests/fuzz/Cargo.toml' and commit its Cargo.lock"; exit 1; }
	@if command -v capnp >/dev/null; then $(MAKE) --no-print-directory schema SCHEMA_OUT=target/schema \
		&& for new in target/schema/*.rs; do diff -u ipc-schema/src/$$(basename $$new) $$new || exit 1; done; \
	else echo "lint: capnp is not installed, so generated code was not compared"; fi

SCHEMA_OUT ?= ipc-schema/src
schema: $(CAPNPC) ## Generates the Rust code of the Cap'n Proto schemas anew (needs capnp)
	@command -v capnp >/dev/null || { echo "schema: install capnp (apt-get install capnproto)"; exit 1; }
	mkdir -p $(SCHEMA_OUT)
	capnp compile --output=$(CAPNPC):$(SCHEMA_OUT) --src-prefix=ipc-schema/schema $(SCHEMAS)

demo: release $(VENV) ## Imports 5,000 documents with vectors, indexes them and runs a few queries
	$(PYTHON) tests/demo/demo.py --server target/release/photondb --plugin-dir target/release-plugins

# Static executables start without opening a file.
STATIC := -C target-feature=+crt-static -C relocation-model=static

# $(call build,FLAGS,PROFILE): the server; the host and the plugins as static executables, stripped, since a server keeps
# each in memory; and the folders that `--plugin-dir target/PROFILE-plugins` takes. A target triple has to be named, or
# Cargo would link its own build scripts and macros statically too.
define build
	$(CARGO) build $(1) -p photondb-server
	RUSTFLAGS="$(RUSTFLAGS) $(STATIC)" $(CARGO) build $(1) --target $(HOST_TRIPLE) \
		-p photondb-plugin-host $(PLUGINS:%=-p photondb-plugin-%)
	install -s -m 755 target/$(HOST_TRIPLE)/$(2)/photondb-plugin-host target/$(2)/
	@for plugin in $(PLUGINS); do \
		install -D -m 644 plugins/$$plugin/plugin.toml target/$(2)-plugins/$$plugin/plugin.toml && \
		install -s -m 755 target/$(HOST_TRIPLE)/$(2)/photondb-plugin-$$plugin target/$(2)-plugins/$$plugin/ || exit 1; \
	done
endef

# Hosts that leave layers of the sandbox out, for tests of the others, each beside a link to the server:
# target/debug-weak/NAME. What NAME leaves out is in WITHOUT_NAME. They are built before the real one, which Cargo puts
# into the same place.
WEAK_HOSTS := seccomp landlock namespaces uid rlimits only-landlock only-namespaces
WITHOUT_seccomp := seccomp
WITHOUT_landlock := landlock
WITHOUT_namespaces := namespaces
WITHOUT_uid := uid
WITHOUT_rlimits := rlimits
WITHOUT_only-landlock := seccomp namespaces uid
WITHOUT_only-namespaces := seccomp landlock uid

define weak
	RUSTFLAGS="$(RUSTFLAGS) $(STATIC)" $(CARGO) build --quiet --target $(HOST_TRIPLE) \
		-p photondb-plugin-host --features "$(WITHOUT_$(1):%=without-%)" && \
	install -D -m 755 target/$(HOST_TRIPLE)/debug/photondb-plugin-host target/debug-weak/$(1)/photondb-plugin-host
endef

release: need-compiler
	$(call build,--release,release)

debug: need-compiler
	@$(foreach host,$(WEAK_HOSTS),$(call weak,$(host)) && ) true
	$(call build,,debug)
	@$(foreach host,$(WEAK_HOSTS),ln -f target/debug/photondb target/debug-weak/$(host)/ && ) true
	RUSTFLAGS="$(RUSTFLAGS) $(STATIC)" $(CARGO) build --target $(HOST_TRIPLE) -p photondb-hostile-plugin
	install -s -D -m 755 target/$(HOST_TRIPLE)/debug/photondb-hostile-plugin target/debug-hostile/photondb-hostile-plugin

need-compiler:
	@tests/tools/need cargo cc

need-python:
	@tests/tools/need python3-venv

# The official driver, for the end-to-end tests and the demo.
$(VENV): tests/tools/requirements.txt | need-python
	python3 -m venv $(TOOLS)/venv
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

# What vector indexes are measured against.
$(PEERS_VENV): tests/bench/requirements.txt | need-python
	python3 -m venv $(TOOLS)/peers
	$(TOOLS)/peers/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

$(CAPNPC):
	$(CARGO) install --quiet capnpc --version 0.27.0 --root $(TOOLS)/capnpc
