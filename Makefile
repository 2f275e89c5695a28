# Two commands do everything: `make demo` and `make test`. Nothing has to be prepared on Debian 12 with Python 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python
PYTEST := $(RUN) -m pytest -q
# Tests with servers mostly wait for them: more of them than CPUs at a time, one by one, the longest first (tests/conftest.py).
UNIT := $(PYTEST) -n 3 --maxschedchunk 4 --durations=10
REAL := $(PYTEST) -n 8 --maxschedchunk 1 --durations=15
PLANE := $(PYTEST) -n 3 --maxschedchunk 1 --durations=15
SOURCES := responder rules exporters deploy/lab tests dashboards

OLD := prometheus promtool alertmanager amtool
NEW := prometheus promtool alertmanager amtool etcd kube-apiserver kube-controller-manager kube-scheduler kubectl helm

.PHONY: help install demo test test-cluster lint unit servers cluster mutants nightly bench rules generated lock clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 22

install: $(VENV)/.done ## make .venv with everything that tests and the demo need

$(VENV)/.done: pyproject.toml deploy/lab/pyproject.toml .ci/install
	sh .ci/install "$(PYTHON)" "$(VENV)"
	touch $@

demo: install ## heal one simulated fault end to end on real Prometheus and Alertmanager
	$(RUN) -m gpuheal_lab.servers ensure prometheus alertmanager
	$(BIN)/gpuheal demo --once

test: install lint unit servers ## checks, unit tests, and tests on Debian's Prometheus and Alertmanager
	@echo "make test: all passed"

test-cluster: install cluster mutants ## tests on a real control plane and on both generations of servers
	@echo "make test-cluster: all passed"

lint: install ## formatting, lint, types, layers, generated files
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy responder/gpuheal_responder rules/gpuheal_rules exporters/gpuheal_exporters dashboards/gpuheal_dashboards deploy/lab/gpuheal_lab
	$(BIN)/lint-imports
	$(BIN)/gpuheal rules check
	$(BIN)/gpuheal rules lint
	$(BIN)/gpuheal dashboards check

unit: install ## tests without servers; coverage of the pure core is at least 95 %
	$(UNIT) -m "not servers and not cluster" --cov=gpuheal_responder.core --cov-report=term --cov-fail-under=95

servers: install ## tests on Debian's Prometheus and Alertmanager, and of the dashboards in a browser
	sh .ci/install browser
	$(RUN) -m gpuheal_lab.servers ensure $(OLD) --generation debian
	GPUHEAL_GENERATION=debian $(REAL) -m "servers and not cluster and not nightly"

cluster: install ## tests on the control plane, and on the current Prometheus and Alertmanager
	$(RUN) -m gpuheal_lab.servers ensure $(NEW) --generation current
	GPUHEAL_GENERATION=current $(REAL) -m "servers and not cluster and not once and not nightly"
	$(PLANE) -m cluster

mutants: install ## every safety invariant's small wrong change must turn its test red
	$(RUN) -m gpuheal_lab.servers ensure $(NEW) --generation current
	$(RUN) -m tests.mutants.run

nightly: install mutants ## what takes too long for every change: the adversary's campaign, all small wrong rules, outages; old locks
	$(RUN) .ci/lock --age
	$(PYTEST) -m nightly
	$(RUN) -m tests.chaos --schedules 20000 --seed "$$(date +%y%j0000)" --jobs 2 --found .chaos
	$(RUN) -m tests.chaos.reverted
	promtool="$$($(RUN) -m gpuheal_lab.servers ensure promtool --generation current | awk '{print $$NF}')" && \
	  $(BIN)/gpuheal rules check --promtool "$$promtool" --whole && \
	  $(BIN)/gpuheal rules mutate --all --promtool "$$promtool"

lock: install ## pin what the images install, with hashes
	$(RUN) .ci/lock

bench: install ## print measurements; nothing is asserted
	@for b in tests/bench/bench_*.py; do echo "== $$b"; $(RUN) -m tests.bench.$$(basename $$b .py) || exit 1; done

generated: install rules ## make all generated files anew
	$(BIN)/gpuheal dashboards build
	$(RUN) -m gpuheal_responder.shell.kube.generate deploy/kustomize/base deploy/helm/gpuheal/templates
	$(RUN) -m gpuheal_lab.servers ensure helm
	$(RUN) -m gpuheal_lab.chart
	$(RUN) -m gpuheal_responder.config.page > responder/SETTINGS.md
	$(RUN) -m gpuheal_responder.shell.metrics > responder/METRICS.md.new && mv responder/METRICS.md.new responder/METRICS.md
	$(RUN) -m gpuheal_responder.shell.round.page responder/ROUND.md
	$(RUN) -m tests.safety.promises

rules: install ## make the generated files of the rules anew
	$(BIN)/gpuheal rules build

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage
