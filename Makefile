# Everything runs from a clean clone with Python and make; neither the Hub nor a GPU is needed.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed
PACKAGES = modeling_drdecr retrieval data trainers evaluation recipes

.PHONY: help install check test test-processes test-slow demo real clean

help:  ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

install: $(INSTALLED)  ## make .venv with the package and its tools

# torch first and pinned: a looser request may bring a build with several GB of CUDA packages.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $$(grep '^torch==' constraints.txt)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[demo,dev]'
	touch $(INSTALLED)

# mypy does not follow the finder of an editable install, so it gets the tree as it will be installed, made of links.
check: $(INSTALLED)  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/types && mkdir -p build/types/drdecr
	ln -s $(CURDIR)/src/drdecr/* $(addprefix $(CURDIR)/,$(PACKAGES)) build/types/drdecr/
	cd build/types && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p drdecr

test: $(INSTALLED)  ## the tests, offline, without extra data
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 -m 'not slow and not processes'

test-processes: $(INSTALLED)  ## the tests of launched and pushing trainings, scripts, pages in a browser, models where the package is absent
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m 'processes and not slow'

test-slow: $(INSTALLED)  ## the tests that need minutes
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 -m slow

demo: $(INSTALLED)  ## train, measure and try a student on the sample data
	HF_HUB_OFFLINE=1 $(BIN)/drdecr demo

real: $(INSTALLED)  ## train and measure on public data; set DRDECR_DATA to its folder
	HF_HUB_OFFLINE=1 $(BIN)/drdecr train recipes/real

clean:  ## remove the environment and caches, not the runs
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache
