# Every target works from a fresh clone with python3, pip, venv and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
export JAX_PLATFORMS ?= cpu

# Tests compile the same small programs again and again: their processes share them.
lint test test-slow accept mutants: export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
lint test test-slow accept mutants: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
lint test test-slow accept mutants: export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES ?= -1

.PHONY: demo demo-fashion examples test test-slow accept bench minimisers mutants lint format gallery contest contest-quick growth notebooks docs check-explore clean

# One stamp for each set of extras: installed again only when pyproject.toml changes.
$(VENV)/.%: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py --out demo

demo-fashion: $(VENV)/.demo
	$(BIN)/python examples/demo.py --fashion --out demo

# About eight minutes. Fashion-MNIST is Debian's package dataset-fashion-mnist; without it MNIST's digits take its place.
examples: $(VENV)/.examples
	$(BIN)/python examples/character_model.py --out demo/character_model
	$(BIN)/python examples/image_network.py $(if $(wildcard /usr/share/datasets/fashion-mnist),,--mnist) --out demo/image_network

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) --maxschedchunk 100 -m 'not slow' tests

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) --maxschedchunk 100 -m 'slow and not as_users' tests
	$(BIN)/python -m pytest -n $(WORKERS) --maxschedchunk 1 -m 'slow and as_users' tests

accept: $(VENV)/.accept
	$(BIN)/python -m pytest -n $(WORKERS) -m accept tests/accept

bench: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check pytorch_optimizer heavyball
	$(BIN)/python -m pytest -m bench -s tests/benchmarks

# Evaluations of minimisers and fits of many libraries; half an hour or more. A few: ARGS="--solvers 'gradchain minimize'".
minimisers: $(VENV)/.accept
	$(BIN)/python -m tests.benchmarks.minimisers $(ARGS)
	$(if $(ARGS),,$(BIN)/python -m tests.benchmarks.minimisers --fits)

# Small wrong changes, and whether the tests notice: make mutants PATHS="gradchain/core --number 40 --minutes 60".
mutants: $(VENV)/.test
	$(BIN)/python tests/mutants.py $(PATHS)

lint: $(VENV)/.lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --project pyproject.toml
	$(BIN)/python -m pytest -m lint tests/types

format: $(VENV)/.lint
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The tables and pictures of docs/gallery, from nothing.
gallery: $(VENV)/.gallery
	$(BIN)/python docs/gallery

# How many steps optimizers need for AdamW's loss; kept runs aren't repeated. A part: make contest ARGS="--problems signals".
contest: $(VENV)/.contest
	$(BIN)/python docs/contest $(ARGS)

contest-quick: $(VENV)/.contest
	$(BIN)/python docs/contest --quick

# How costs grow with the number of arrays, stages, labels and runs, beside Optax; twenty minutes or more. ARGS=--quick: two.
growth: $(VENV)/.test
	$(BIN)/python docs/growth $(ARGS)

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html
	$(BIN)/python docs/check_links.py docs/_build/html
	$(BIN)/python docs/check_search.py docs/_build/html

# From the tutorials' pages; commit what it writes.
notebooks:
	$(PYTHON) docs/make_notebooks.py

# Needs Chromium.
check-explore: docs
	$(BIN)/python docs/check_explore.py docs/_build/html

clean:
	rm -rf $(VENV) .cache demo docs/_build
