# Everything a newcomer needs. The first target that needs the environment makes it.
PYTHON ?= python3
BIN := .venv/bin
# Absolute, so that jobs of a Ray head started from here find the same runs and database.
export RAYFILL_HOME ?= $(CURDIR)/var
# Ray's own counter of uses, and prompts, are no business of a build.
export RAY_USAGE_STATS_ENABLED ?= 0
# A process for each core; all that share a Ray cluster stay in one (tests/conftest.py).
PARALLEL := -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder
PACKAGES := platform/rayfill data/rayfill_data serving/rayfill_serving

.PHONY: help install sweep serve ui head check test lint format bench clean

help:  ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: .venv/.installed  ## Create .venv with every pinned version

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Rayfill needs Python 3.11 or newer; name one with PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --build-constraint constraints.txt --group dev --editable '.[aws]'
	touch $@

sweep: install  ## Run the main job: sweep models on the bundled photos, register the champion
	$(BIN)/python experiments/attn_unet_sweep.py $(ARGS)

serve: install  ## Serve the champion and the brush page on http://127.0.0.1:8000
	$(BIN)/rayfill serve $(ARGS)

ui: install  ## Browse the recorded runs on http://127.0.0.1:5000
	$(BIN)/rayfill ui $(ARGS)

head: install  ## Start a local Ray head for `ray job submit`; Ctrl-C stops it
	PATH="$(CURDIR)/$(BIN):$$PATH" RAY_AUTH_MODE=token $(BIN)/rayfill head $(ARGS)

check: lint  ## Check style, types and whatever can be tested in three minutes
	$(BIN)/python -m pytest $(PARALLEL) \
		-m "not ray and not process and not browser and not slow and not gpu and not realdata" $(ARGS)

test: install  ## Run the tests that need neither GPU, network nor data sets
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

lint: install  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install  ## Measure speed against plain code and write benchmarks/results
	$(BIN)/python benchmarks/run.py $(ARGS)

clean:  ## Remove what was trained and recorded here; the environment stays
	rm -rf var
