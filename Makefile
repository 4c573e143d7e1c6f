# make demo | test | test-fast | test-wheel | check | docs | wheel | bench: each one sets up everything it needs.
#
#   PYTHON=python3.12      another interpreter (3.11 or newer)
#   JOBS=4                 test processes: all cores by default, at most 8, as each one holds models in memory
#   TESTS=tests/tasks      what test, test-fast and test-wheel run; also TESTS="tests/tasks -k math"
#   PIP_FLAGS=...          further options for pip, for example the index of CPU-only torch builds:
#                          PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
WHEEL_ENV := build/wheel-env
JOBS ?= $(shell nproc | awk '{print ($$1 < 8) ? $$1 : 8}')
TESTS ?= tests
# One thread in each test process: threads of several processes would compete for the same cores.
test test-fast test-wheel: export OMP_NUM_THREADS ?= 1
IN_PARALLEL := --numprocesses $(JOBS) --dist worksteal
# What the tests use out of the cache: one small model and four tokenizers, about 100 MB to fetch, once.
MODELS := smollm2-135m-instruct
TOKENIZERS := qwen tekken deepseek gemma3

.PHONY: demo test test-fast test-wheel check docs wheel bench install fetch clean

demo: install
	$(BIN)/crosstok run suites/quickstart.yaml

test: install fetch
	$(BIN)/python -m pytest $(IN_PARALLEL) $(TESTS)

# A few minutes on two cores: no real model, no attack on the sandbox, no server, browser or whole run.
test-fast: install
	$(BIN)/python -m pytest $(IN_PARALLEL) -m "not (real or attack or docker or server or postgres or browser or slow)" $(TESTS)

# The suite against the installed wheel. The environment takes its dependencies, pip included, from $(VENV); a .pth file
# there, such as that of an editable crosstok, is not read. The checkout is last on its path, where processes that tests
# start find the test modules: `crosstok` is then the installed one, and `import crosstok.x` fails if the wheel lacks x.
test-wheel: install fetch wheel
	rm -rf $(WHEEL_ENV)
	$(BIN)/python -m venv --without-pip $(WHEEL_ENV)
	$(BIN)/python -c 'import site; print(*site.getsitepackages(), "$(CURDIR)", sep="\n")' >$(WHEEL_ENV)/dependencies.pth
	mv $(WHEEL_ENV)/dependencies.pth $(WHEEL_ENV)/lib/python*/site-packages/
	$(BIN)/python -m pip --python $(WHEEL_ENV)/bin/python install --quiet --no-deps --no-index --ignore-installed dist/*.whl
	cd $(WHEEL_ENV) && bin/python -P -m pytest --rootdir=$(CURDIR) --config-file=$(CURDIR)/pyproject.toml \
	  $(IN_PARALLEL) $(addprefix $(CURDIR)/,$(firstword $(TESTS))) $(wordlist 2,$(words $(TESTS)),$(TESTS))

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: install
	rm -rf dist
	$(BIN)/python -m build --outdir dist

bench: install fetch
	$(BIN)/python bench/alignment.py

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "crosstok needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	PYTHONWARNINGS="ignore:Editable installation" $(BIN)/pip install --quiet $(PIP_FLAGS) --constraint constraints.txt --editable '.[dev,docs,postgres]'
	touch $@

fetch: install
	$(BIN)/crosstok models fetch $(MODELS) $(addprefix tokenizer:,$(TOKENIZERS))

clean:
	rm -rf $(VENV) build dist *.egg-info
