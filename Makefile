# make demo | test | check | docs | bench: each one sets up everything it needs.
#
#   PYTHON=python3.12      another interpreter (3.11 or newer)
#   PIP_FLAGS=...          further options for pip, for example the index of CPU-only torch builds:
#                          PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
# What the tests use out of the cache: one small model and three tokenizers, about 100 MB to fetch, once.
MODELS := smollm2-135m-instruct
TOKENIZERS := qwen tekken deepseek gemma3

.PHONY: demo test check docs bench install fetch clean

demo: install
	$(BIN)/crosstok run suites/quickstart.yaml

test: install fetch
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: install fetch
	$(BIN)/python bench/alignment.py

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "crosstok needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(PIP_FLAGS) --constraint constraints.txt --editable '.[dev,docs,postgres]'
	touch $@

fetch: install
	$(BIN)/crosstok models fetch $(MODELS) $(addprefix tokenizer:,$(TOKENIZERS))

clean:
	rm -rf $(VENV) build dist *.egg-info
