# One environment, .venv; two stages: what runs the gateway, and what tests it. The tools of
# `make load` stand apart in .venv-load, those of `make docs` in .venv-docs.
# `make` alone prints what there is.

.DEFAULT_GOAL := help
.PHONY: help setup run test check fuzz backlog bench bench-growth bench-receipts bench-wire bench-vendors bench-webhooks load faults campaign upgrade sinks docs lock clean FORCE
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
RUNS := .venv/.runs
TESTS := .venv/.tests
LOADS := .venv-load/.done
DOCS := .venv-docs/.done
PYTEST := $(BIN)/python -m pytest
OTHER_TIERS := integration or flow or campaign or load
TESTED := not (campaign or load)
# What comes after `make check`, in three parts of about the same length: what kills and restarts,
# and the rest by name.
KILLING := $(wildcard $(addprefix tests/flow/test_,breaker.py failpoints.py kill.py node_life.py nodes.py restart.py \
	restore.py upgrade.py) \
	$(addprefix tests/integration/test_,limiter_valkey.py supervisor.py takeover.py))
SECOND := $(filter-out $(KILLING),\
	$(wildcard $(addprefix tests/flow/test_,first_light.py inbound.py [k-z]*.py) \
	tests/integration/test_[p-z]*.py))

# A moved folder or a removed interpreter makes an environment useless whatever the stamps say.
stale = $(shell test "$$(cat $(1)/place 2>/dev/null)" = "$$(pwd -P)" \
	&& $(1)/bin/python -c '' 2>/dev/null || echo FORCE)

help: ## this list
	@echo 'smsgw: an SMS gateway. First: make run'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

setup: $(RUNS) ## make .venv with all that the gateway needs (from requirements.lock)
	@echo 'Ready: $(BIN)/smsgw'

run: $(RUNS) ## start the gateway with simulated carriers, and print how to send
	@$(BIN)/smsgw up --sandbox

# What runs side by side: one each for a core of a small machine; what waits most of the time for
# processes has the check beside it in `make test`, behind it (nice) so that no waiting gets longer.
# Each one's lines come together, where make can do that.
TOGETHER := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)
check: $(TESTS) ## format, lint, types, imports, unit and wire tests: before every commit
	+@$(MAKE) -j2 $(TOGETHER) check-unit check-forms

test: $(TESTS) ## check, and every other test but load and campaigns: what CI runs
	+@$(MAKE) -j5 $(TOGETHER) BEHIND='nice -n 10' \
		test-killing test-first test-second check-unit check-forms

.PHONY: check-forms check-unit test-first test-killing test-second
check-forms: $(TESTS)
	$(BEHIND) $(BIN)/ruff format --check .
	$(BEHIND) $(BIN)/ruff check .
	$(BEHIND) $(BIN)/mypy
	$(BEHIND) $(BIN)/lint-imports
	$(BEHIND) $(PYTEST) tests/wire -m 'not ($(OTHER_TIERS))'

check-unit: $(TESTS)
	$(BEHIND) $(PYTEST) tests/unit -m 'not ($(OTHER_TIERS))'

test-first: $(TESTS)
	$(PYTEST) tests --ignore=tests/unit --ignore=tests/wire $(SECOND:%=--ignore=%) \
		$(KILLING:%=--ignore=%) -m '$(TESTED)'

test-killing: $(TESTS)
	$(PYTEST) $(KILLING) -m '$(TESTED)'

test-second: $(TESTS)
	$(PYTEST) $(SECOND) -m '$(TESTED)'

fuzz: $(TESTS) ## a million inputs into each parser of the wire (make test: 20,000)
	SMSGW_HYPOTHESIS=random SMSGW_FUZZ_INPUTS=1000000 $(PYTEST) tests/wire -k test_fuzz

bench: $(RUNS) ## measure: messages/s, latency, CPU per message and process
	@$(BIN)/python -m loadtest.bench

backlog: $(RUNS) ## accept a million messages without a carrier, then watch them drain
	@$(BIN)/python -m loadtest.backlog

bench-growth: $(RUNS) ## the same against an empty store and a full one, few tenants and many
	@$(BIN)/python -m loadtest.growth

bench-wire: $(RUNS) ## one session per protocol: submits/s, CPU per submit and answer
	@$(BIN)/python -m loadtest.wirebench

bench-receipts: $(RUNS) ## 20,000 reports/s for a minute beside sends, half at a process that did not submit
	@$(BIN)/python -m loadtest.flood

bench-vendors: $(RUNS) ## one channel per HTTP vendor: messages/s, CPU per message, alone and batched
	@$(BIN)/python -m loadtest.vendorbench

bench-webhooks: $(RUNS) ## 100,000 finals/min to one endpoint and to 1,000; what bad endpoints do to the others
	@$(BIN)/python -m loadtest.webhookbench

load: $(RUNS) $(LOADS) ## 100,000 messages/min for 5 min, a carrier switched off; passes or fails
	@$(BIN)/python -m loadtest.load

faults: $(RUNS) $(LOADS) ## what must hold when a carrier or its link goes bad, over SMPP and CMPP (FAULTS='--row hang')
	@$(BIN)/python -m loadtest.faults $(FAULTS)

campaign: $(RUNS) ## kill it at every place of the path and at random, and judge (CAMPAIGN='--kills 60')
	@$(BIN)/python -m loadtest.campaign $(CAMPAIGN)

upgrade: $(RUNS) ## from an older version to this one under load, and back: does a client see it? (UPGRADE='--from COMMIT')
	@$(BIN)/python -m loadtest.upgrade $(UPGRADE)

sinks: $(TESTS) ## webhook receivers that misbehave, and kills meanwhile: is all told? (SINKS='--quick')
	@$(BIN)/python -m loadtest.sinks $(SINKS)

docs: $(DOCS) ## the documentation as a site in build/docs; a broken link fails
	.venv-docs/bin/sphinx-build -W --keep-going -q -c docs -d build/docs-pickled . build/docs
	@echo 'Ready: build/docs/index.html'

# No header, no annotations, no index: nothing of the machine that made them stands in the locks.
LOCKED := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url
GATEWAY := pyproject.toml - --extra embedded
lock: $(TESTS) ## renew the lock files from pyproject.toml (make lock UPGRADE=--upgrade)
	echo 'setuptools>=77' | $(LOCKED) $(GATEWAY) $(UPGRADE) -o requirements.lock
	echo 'setuptools>=77' | $(LOCKED) $(GATEWAY) $(UPGRADE) --extra dev -c requirements.lock \
		-o requirements-dev.lock
	$(LOCKED) --group load $(UPGRADE) -c requirements-dev.lock -o requirements-load.lock
	$(LOCKED) --group docs $(UPGRADE) -c requirements-dev.lock -o requirements-docs.lock

clean: ## remove .venv, .venv-docs, .venv-load and caches; the data directory .smsgw stays
	rm -rf .venv .venv-docs .venv-load build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNS): requirements.lock pyproject.toml $(call stale,.venv)
	@sh deploy/setup.sh requirements.lock
	@touch $@

# The development lock holds the other one, so one stage makes both stamps.
$(TESTS): requirements.lock requirements-dev.lock pyproject.toml $(call stale,.venv)
	@sh deploy/setup.sh requirements-dev.lock
	@touch $(RUNS) $@

# Tools only: locust and what draws the plots. The project itself is found by PYTHONPATH.
$(LOADS): requirements-load.lock $(call stale,.venv-load)
	@sh deploy/setup.sh requirements-load.lock .venv-load
	@touch $@

$(DOCS): requirements-docs.lock $(call stale,.venv-docs)
	@sh deploy/setup.sh requirements-docs.lock .venv-docs
	@touch $@

FORCE:
