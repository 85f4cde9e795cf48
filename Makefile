PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Processes of the tests share the cores; more threads than cores only slow each other down.
export OMP_NUM_THREADS ?= 2
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export HF_HUB_OFFLINE ?= 1

.PHONY: install quickstart test test-long lint clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

install: $(VENV)/.installed

quickstart: install
	$(BIN)/medvlmoe phantom root=runs/phantom images_per_site=400
	$(BIN)/medvlmoe simulate experiment=quickstart

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -m "not long"

test-long: install
	$(BIN)/pytest -m long

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
