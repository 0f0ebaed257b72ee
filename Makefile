# One word for each habit. `make help` lists them; every word makes sure first that .venv is up to date.
SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
PY := .venv/bin/python
READY := .venv/.ready

# Arguments of single words: make bench ARGS=--quick, make sim SEEDS=50 FIRST=1, make sim-one SEED=7, make fuzz FUZZ_S=60.
ARGS ?=
SEEDS ?= 500
FIRST ?= 1
SEED ?= 1
FUZZ_S ?= 60

.PHONY: help setup demo demo-nexus test test-matrix check bench bench-cluster compare sim sim-one crash crash-cluster drill fuzz properties clean

help: ## list these words
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with the locked dependencies (does nothing when it is up to date)

$(READY): uv.lock pyproject.toml ops/setup.sh
	@bash ops/setup.sh
	@touch $@

demo: $(READY) ## two regions, one lost amid 200 money transfers (STORES=sqlite,postgres)
	@$(PY) -m ops.demo $(ARGS)

demo-nexus: $(READY) ## three teams that only call each other by Nexus, one behind plain HTTP in Node (ARGS=--failover)
	@$(PY) -m ops.demo_nexus $(ARGS)

test: $(READY) ## all tests (about 4 minutes on 2 cores)
	@$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-matrix: $(READY) ## the end-to-end suite on every store and shape
	@$(PY) -m tests.matrix $(ARGS)

check: $(READY) ## ruff, mypy --strict, layers, tidy, docs
	@.venv/bin/ruff check .
	@.venv/bin/mypy --strict
	@$(PY) -m pytest -q tests/test_layers.py tests/test_tidy.py tests/test_docs.py

bench: $(READY) ## throughput, cost and latency, next to the real server where it is built (ARGS=--quick)
	@$(PY) -m ops.bench $(ARGS)

bench-cluster: $(READY) ## stores, processes, nodes and the hop, next to the real server on PostgreSQL (ARGS="--engines postgres --rounds 3")
	@$(PY) -m ops.bench.cluster $(ARGS)

compare: $(READY) ## the same workflows here and on the real server: do the histories agree?
	@$(PY) -m tests.compare $(ARGS)

sim: $(READY) ## the deterministic simulator: SEEDS=n FIRST=k
	@$(PY) -m chaos.sim run --seeds $(SEEDS) --first $(FIRST) $(ARGS)
	@$(PY) -m chaos.sim run --regions 0 --seeds $$(( $(SEEDS) / 4 )) --first $(FIRST) $(ARGS)

sim-one: $(READY) ## one seed of the simulator, told in full: SEED=n
	@$(PY) -m chaos.sim one --seed $(SEED) $(ARGS)

crash: $(READY) ## SIGKILLs at random moments under load, then the audit of every acknowledgement
	@$(PY) -m chaos.crash $(ARGS)

crash-cluster: $(READY) ## three nodes killed, frozen and cut off under load; ARGS="--store mariadb --faults 50"
	@$(PY) -m chaos.cluster $(ARGS)

drill: $(READY) ## one region of two killed under load (ARGS="graceful": moved to and fro), 500 namespaces
	@$(PY) -m chaos.regions $(ARGS)

fuzz: $(READY) ## descriptor-driven fuzzing of every served call for FUZZ_S seconds
	@OUTLAST_FUZZ_S=$(FUZZ_S) $(PY) -m pytest tests/fuzz --hypothesis-profile=default $(ARGS)

properties: $(READY) ## the tests with generated examples, new ones each time
	@$(PY) -m pytest -n 2 --dist loadfile --hypothesis-profile=default $$(grep -rl "hypothesis import" tests --include=*.py) $(ARGS)

clean: ## remove what the other words made (keeps .venv)
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv/*' -type d -prune -exec rm -rf {} +
