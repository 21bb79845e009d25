# Each target sets itself up on a fresh clone: a virtual environment with the pinned packages.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A version manager's python3.13 can be there and not run.
PYTHON_NEWEST ?= $(if $(shell python3.13 --version 2>/dev/null),python3.13,$(PYTHON))
NEWEST := .venv-newest
# What is compared with plain diffusers or torch, bit for bit or to rounding.
PARITY := tests/test_imports.py tests/export tests/models tests/builder/test_checkpoint_names.py \
	tests/pipelines/loop/test_parity.py tests/pipelines/coverage/test_every_pipeline.py

.PHONY: demo test test-newest lint check-slow clean

demo: $(STAMP)  ## draw ten digits, plain and cached, into demo/digits.png
	$(BIN)/python -m deepcache_trt.benchmarks.demo --out demo

test: lint  ## the tests that CI runs
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-newest:  ## the parity tests on the newest release of every dependency
	$(PYTHON_NEWEST) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable ".[dev]"
	$(NEWEST)/bin/python -m pytest -n 2 --dist worksteal -m "not slow" $(PARITY)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check-slow: $(STAMP)  ## real sizes and the quality of the bundled model: about an hour
	$(BIN)/python -m pytest -m slow

$(STAMP): setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "setuptools>=77" wheel
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable ".[dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) $(NEWEST) build dist demo *.egg-info
