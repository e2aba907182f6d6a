# make setup | demo | test | check | lock — nothing else has to be installed by hand.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := leafport export training targets benchmarks sample_apps tests

.PHONY: setup demo test check types format lock environments clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "leafport needs Python 3.11 or later, and $(PYTHON) is older: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[coreml,onnx,train-distributed,dev]'
	@touch $@

demo: setup
	$(BIN)/leafport demo --out demo --overwrite

test: setup
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

check: setup types
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

# The five code folders are one package, leafport; mypy sees them so through a tree of links.
types: setup
	@rm -rf build/types && mkdir -p build/types/leafport
	@ln -s $(foreach path,$(wildcard $(CURDIR)/leafport/*),$(path)) build/types/leafport/
	@ln -s $(foreach name,export training targets benchmarks sample_apps,$(CURDIR)/$(name)) build/types/leafport/
	cd build/types && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p leafport

format: setup
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

# Old runtimes that cannot share leafport's environment; tests that need them run when they are there.
environments: setup
	$(BIN)/python tests/environments.py

lock: setup
	$(BIN)/pip-compile --quiet --upgrade --all-extras --strip-extras --no-emit-index-url --no-emit-find-links \
	  --no-header --no-annotate --output-file constraints.txt pyproject.toml

clean:
	rm -rf build dist demo *.egg-info .mypy_cache .ruff_cache .pytest_cache
