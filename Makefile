# Each target sets itself up on a fresh clone: a virtual environment with the pinned packages.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint check-slow clean

demo: $(STAMP)  ## draw ten digits, plain and cached, into demo/digits.png
	$(BIN)/python -m deepcache_trt.benchmarks.demo --out demo

test: lint  ## the tests that CI runs
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

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
	rm -rf $(VENV) build dist demo *.egg-info
