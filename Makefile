# Each target makes the environment that it needs; nothing has to be installed before.
#
#   make demo     train on the bundled sample, evaluate, tag three sentences
#   make test     the test suite
#   make check    lint, types, bandit, and known weaknesses of the dependencies where they can be asked for
#   make lock     write lock.txt (all versions, for Python 3.11 to 3.13) and the SBOM again, from constraints.txt
#   make fuzz     a server under nonsense: MODEL=<trained folder>, by default that of `make demo`
#   make compatibility   the contract with transformers and accelerate on the oldest, pinned and newest versions
#   make faults   kill every command that writes at its steps, fill the disk, write twice at once: a quarter of an hour
#                 (python -m tests.faults --thorough takes hours)
#   make format   rewrite the code in the project's style
#   make docs     build the documentation into docs/_build/html
#   make space    the web page, on http://127.0.0.1:7860, with the model that `make demo` trained
#
# PyTorch without CUDA on Linux:  make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu

VENV ?= .venv
PYTHON ?= python3
TORCH_INDEX ?=
MODEL ?= outputs/demo/model
VERSIONS ?= oldest pinned newest

LOCKED := pyproject.toml --constraint constraints.txt --universal --python-version 3.11 --no-header --no-annotate --quiet

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: demo test check compatibility faults format docs space clean lock fuzz

demo: $(VENV)/.installed-demo
	$(BIN)/hf-xmc demo --output_dir outputs/demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --recursive hf_xmc --configfile pyproject.toml
	.ci/audit $(BIN)/python

# uv keeps the versions that lock.txt has, where they are allowed: a file that changes was out of date.
lock: $(VENV)/.installed-lock
	mkdir -p build
	$(BIN)/uv pip compile $(LOCKED) --extra dev --extra docs --extra fuzz -o lock.txt
	$(BIN)/uv pip compile $(LOCKED) -o build/requirements.txt
	$(BIN)/cyclonedx-py requirements build/requirements.txt --pyproject pyproject.toml --output-reproducible \
		-o sbom/hf-xmc.cdx.json

fuzz: $(VENV)/.installed-fuzz
	PATH=$(BIN):$$PATH $(BIN)/python scripts/fuzz_server.py $(MODEL) --schemathesis

compatibility: $(VENV)/.installed-test
	.ci/compatibility $(BIN)/python $(VERSIONS)

faults: $(VENV)/.installed-test
	$(BIN)/python -m tests.faults
	$(BIN)/python -m pytest tests/faults -n 0 -m "faults or not faults"

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -W --keep-going -q -E -b html docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

space: $(VENV)/.installed-space
	@test -d $(MODEL) || test $(MODEL) != outputs/demo/model || { echo "No model in $(MODEL): run 'make demo' first, or give MODEL=<folder or Hub id>."; exit 1; }
	XMC_MODEL=$(MODEL) $(BIN)/python spaces/xmc_tagger/app.py

clean:
	rm -rf $(VENV) outputs docs/_build .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch comes first and by itself, so that nothing else picks a build of it.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing hf-xmc[$*] into $(VENV) ..."
	$(PIP) torch
	$(PIP) -e '.[$*]'
	@touch $@
