# `make demo` and `make test` set everything up on a fresh machine. Choose another interpreter with PYTHON=….
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ENGINE := sparsify/engine/native
STAMP := $(VENV)/.installed
# One process a core, each with one thread; a file stays in one process, for what its tests share is made once.
PYTEST := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile

.PHONY: help setup engine engine-test demo test test-slow test-versions lint types contracts schema docs bench clean

help: ## Show the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(STAMP) ## Create the virtual environment and install everything.

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24" "setuptools>=77"
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(STAMP)

engine: $(ENGINE)/.built ## Compile the sparse engine's library, where there is a C++ compiler.

$(ENGINE)/.built: $(STAMP) $(wildcard $(ENGINE)/*.cpp $(ENGINE)/*.h $(ENGINE)/*.inl)
	$(BIN)/python -m sparsify.engine.build --optional
	touch $@

engine-test: ## Run the engine by itself under the sanitizers.
	.ci/engine

demo: $(STAMP) ## Prune a small vision transformer on real images (about two minutes).
	HF_HUB_OFFLINE=1 $(BIN)/sparsify demo

test: $(STAMP) engine ## Run the default test suite.
	$(PYTEST)

test-slow: $(STAMP) engine ## Run the long tests too.
	SPARSIFY_EVERY_EXAMPLE=1 $(PYTEST) -m "slow or not slow"

test-versions: $(STAMP) ## Run tests with the oldest and newest Python, torch and transformers (network, 15 GB of disk).
	$(BIN)/python -m tests.versions

lint: $(STAMP) ## Check style and formatting.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## Check types (mypy, strict).
	$(BIN)/mypy

contracts: $(STAMP) ## Check that imports go one way.
	$(BIN)/lint-imports --no-cache

schema: $(STAMP) ## Write schemas/recipe.v1.json, docs/recipe-reference.md and the recipes on method pages anew.
	$(BIN)/sparsify schema --out schemas/recipe.v1.json
	$(BIN)/sparsify schema --markdown --out docs/recipe-reference.md
	$(BIN)/python benchmarks/method_pages.py

docs: $(STAMP) ## Build the documentation into site/.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(STAMP) ## Run the benchmarks (minutes; ratios, one process).
	$(BIN)/python benchmarks/selection.py
	$(BIN)/python benchmarks/hooks.py
	$(BIN)/python benchmarks/trainer.py
	$(BIN)/python benchmarks/integrations.py

clean: ## Remove what was built, but not the environment.
	rm -rf build dist site runs *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
