# Everything starts here; each target makes what it needs. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The longest first, for those who run several at a time.
SCENARIOS := site failover edge witness signing_oracle log_server firewall monitoring secondaries ssh_access bastion tunnel trillian yubihsm_connector site_exporter mariadb base sigsum_tools
HOURS := 1
MEASURED = $$(date +%F)-$$(git rev-parse --short HEAD)
RESULTS := $(CURDIR)/build/results
PROMTOOL := build/tools/promtool
ALERTS := roles/monitoring/files/rules/sigsum.rules.yml docs/alerts.md
PLAYBOOK := $(BIN)/ansible-playbook -i inventories/lab

.PHONY: help venv demo test test-fast lint unit scenarios docs lock bench soak clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(VENV)/.ready: requirements.lock requirements-uv.lock pyproject.toml
	@echo "Making $(VENV) with the locked tools (about a minute)…"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements-uv.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

venv: $(VENV)/.ready

# Debian's, without installing it: its package would start a server here. It is in a package of its own since trixie.
# A machine that never read its archives' indexes knows neither; a lab may be reading them at this moment.
$(PROMTOOL):
	@mkdir -p $(@D) && into=$$(mktemp -d) && trap 'rm -rf "$$into"' EXIT && cd "$$into" && \
	  get() { apt-get -qq -o APT::Sandbox::User= download promtool || \
	    apt-get -qq -o APT::Sandbox::User= download prometheus; } && \
	  for again in 1 2 3 4 5; do \
	    get 2>/dev/null && break; $$(test "$$(id -u)" = 0 || echo sudo) apt-get -qq update; sleep 5; \
	  done && \
	  dpkg-deb --extract ./*.deb . && install usr/bin/promtool $(CURDIR)/$@

demo: venv ## Deploy a two-machine log in containers, submit to it, verify
	$(BIN)/sigsum-ops packages build
	$(BIN)/sigsum-ops lab up
	$(PLAYBOOK) playbooks/site.yml
	$(PLAYBOOK) playbooks/smoke.yml
	@cat docs/after-demo.txt

test: venv ## Everything that CI runs: lint, unit tests, scenarios on labs of their own
	@$(MAKE) --no-print-directory lint unit scenarios

test-fast: venv lint $(PROMTOOL) ## Lint and unit tests but the slow ones: two minutes
	$(BIN)/pytest -q -m "not lab and not slow"

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/ansible-lint --nocolor
	$(BIN)/python -m sigsum_ops.site.roledocs roles --check
	$(BIN)/python -m sigsum_ops.exporter.table docs/metrics.md --check
	$(BIN)/python -m sigsum_ops.monitoring.alertdocs $(ALERTS) --check
	PATH="$(CURDIR)/$(BIN):$$PATH" antsibull-docs lint-collection-docs --plugin-docs --skip-rstcheck .

# Its tool is no prerequisite: make would come back to it after all the scenarios, and it is the longest but four.
unit: venv
	@$(MAKE) --no-print-directory $(PROMTOOL)
	$(BIN)/pytest -q -m "not lab" --junitxml=$(RESULTS)/unit.xml

scenarios: $(addprefix scenario-,$(SCENARIOS))

scenario-%: venv ## One scenario, such as scenario-site
	PATH="$(CURDIR)/$(BIN):$$PATH" PYTEST_ADDOPTS=--junitxml=$(RESULTS)/$*.xml molecule test -s $*

docs: venv ## Generate the pages that are made from specifications
	$(BIN)/python -m sigsum_ops.site.roledocs roles
	$(BIN)/python -m sigsum_ops.exporter.table docs/metrics.md
	$(BIN)/python -m sigsum_ops.monitoring.alertdocs $(ALERTS)

lock: venv ## Pin the newest allowed dependencies, with hashes
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-annotate --extra controller --extra dev pyproject.toml --output-file requirements.lock
	echo uv | $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-annotate - --output-file requirements-uv.lock

bench: venv ## Measure upstream's settings and ours side by side on the lab (16 minutes)
	$(BIN)/sigsum-ops bench

soak: venv ## Break everything on the lab for an hour under load (HOURS=1); 20 failovers, 10 handovers, all crashes; type the continuity plan
	$(BIN)/sigsum-ops soak --hours $(HOURS) --out docs/measurements/soak-$(MEASURED).json
	$(BIN)/sigsum-ops drill failover -n 20 --out docs/measurements/drill-$(MEASURED).json
	$(BIN)/sigsum-ops drill handover -n 10 --out docs/measurements/handover-$(MEASURED).json
	$(BIN)/sigsum-ops drill crashes --out docs/measurements/crashes-$(MEASURED).json
	@$(MAKE) --no-print-directory scenario-runbook

clean: ## Remove what was built; the lab stays (sigsum-ops lab down)
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
