# Two commands do everything on a fresh machine: `make demo` shows the main job, `make test` tests it.
# Each installs into .venv first, where pyproject.toml has changed since; `make clean` takes all of it away.

# PYTHON is any Python from 3.11 on. Change TORCH for another build, for example
# TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu" for one without CUDA.
PYTHON ?= python3
TORCH ?= torch==2.13.0
DEMO ?= runs/demo

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PEERS := .venv-peers
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.PHONY: help demo test check lint format peers install clean

help:
	@echo 'make demo    train, evaluate, measure and compare three networks on digits; prints where the report is'
	@echo 'make test    run all tests that need no GPU'
	@echo 'make check   the quick loop: linters and the quick tests'
	@echo 'make lint    the linters alone'
	@echo 'make format  let ruff put the code into its form'
	@echo 'make peers   install the libraries that benchmarks compare with, into $(PEERS)'
	@echo 'make clean   remove the environments and what tools left behind'

demo: $(VENV)/.installed
	$(BIN)/robustscape demo --out $(DEMO)

install: $(VENV)/.installed

test: $(VENV)/.test
	$(PYTEST) -m "not gpu"

check: lint $(VENV)/.test
	$(PYTEST) -m "not slow and not gpu"

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(VENV)/.lint
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

# torch comes first and by itself, and is named again in every later call, so that pip cannot change it.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "robustscape needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3"; exit 1; }
	@echo 'installing robustscape into $(VENV)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) $(TORCH)
	@$(PIP) $(TORCH) --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.installed
	@$(PIP) $(TORCH) --editable '.[test]'
	@touch $@

$(VENV)/.lint: $(VENV)/.installed
	@$(PIP) $(TORCH) --editable '.[lint]'
	@touch $@

# Their own pins and torchvision would break the environment, so none of their dependencies is taken but those
# that they cannot be imported without.
peers: $(PEERS)/.installed

$(PEERS)/.installed: pyproject.toml
	@echo 'installing the libraries to compare with into $(PEERS)'
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH) --editable .
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  torchattacks foolbox eagerpy pyhessian hessian-eigenthings==1.0.0a5 pyautoattack==0.2.0 \
	  kornia==0.9.0 kornia-rs
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps GitPython gitdb smmap tqdm
	@$(PEERS)/bin/python -W ignore -c 'import torchattacks, foolbox, pyhessian, hessian_eigenthings, pyautoattack, kornia'
	@touch $@

clean:
	rm -rf $(VENV) $(PEERS) .pytest_cache .ruff_cache .import_linter_cache build dist
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
