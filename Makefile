# Each target sets itself up on a fresh clone: a virtual environment with the pinned packages.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_VENV := .venv-docs
DOCS_STAMP := $(DOCS_VENV)/.installed

# A version manager's python3.13 can be there and not run.
PYTHON_NEWEST ?= $(if $(shell python3.13 --version 2>/dev/null),python3.13,$(PYTHON))
NEWEST := .venv-newest
AUDIT_VENV := .venv-audit
# What is compared with plain diffusers or torch, bit for bit or to rounding.
PARITY := tests/test_imports.py tests/export tests/models tests/builder/test_checkpoint_names.py \
	tests/pipelines/loop/test_parity.py tests/pipelines/coverage/test_every_pipeline.py

# What is killed, damaged, refused and called a thousand times.
SOAKED := tests/engines/store tests/engines/test_caches.py tests/engines/openvino_backend/test_openvino_compile.py \
	tests/runtime/test_plan_file.py tests/models/checkpoint tests/commands/typed tests/pipelines/live/test_many_calls.py \
	tests/pipelines/live/test_arguments.py tests/pipelines/live/test_forks.py \
	tests/serving/test_server.py::test_sixteen_clients_get_their_own_pictures_though_a_replica_is_killed

.PHONY: demo test test-newest lint check-slow audit soak docs clean

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

check-slow: $(STAMP)  ## real sizes, the quality of the bundled models, known flaws of what is pinned: about an hour
	$(BIN)/python -m pytest -m slow
	$(MAKE) audit

# In an environment of its own. It asks PyPI about each pinned version, and a package that PyPI does not answer for fails
# it (--strict): a mirror of packages alone says nothing about flaws, which would look as if there were none.
audit:  ## known flaws of the pinned packages; needs the network
	$(PYTHON) -m venv $(AUDIT_VENV)
	$(AUDIT_VENV)/bin/python -m pip install --quiet pip-audit
	$(AUDIT_VENV)/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

soak: $(STAMP)  ## what it stands, with figures: kills, damage, hostile words, a thousand calls; about half an hour
	SOAK=1 SOAK_KILLS=60 SOAK_CALLS=1000 SOAK_SECONDS=600 $(BIN)/python -m pytest -m "" -q --timeout 3600 $(SOAKED)

docs: $(DOCS_STAMP)  ## the pages as a site, in build/site; what is linked and not there is an error
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --quiet

$(STAMP): setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "setuptools>=77" wheel
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable ".[dev]"
	touch $(STAMP)

# The tools of setup.py's [docs] in an environment of their own: they read the package's sources without importing them,
# so neither it nor torch need be installed there.
$(DOCS_STAMP): setup.py constraints.txt
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet --constraint constraints.txt mkdocs mkdocs-material mkdocstrings-python ruff
	touch $(DOCS_STAMP)

clean:
	rm -rf $(VENV) $(NEWEST) $(DOCS_VENV) $(AUDIT_VENV) build dist demo *.egg-info
