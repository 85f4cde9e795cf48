PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One thread a process: two threads on two idle cores are 1.6 times as fast, but 4 times slower than one as soon as
# anything else runs (they wait for each other). The tests use the cores by running side by side instead.
export OMP_NUM_THREADS ?= 1
TEST_PROCESSES ?= 2
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export HF_HUB_OFFLINE ?= 1

.PHONY: install quickstart federation-demo nginx test test-long lint clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

install: $(VENV)/.installed

quickstart: install
	$(BIN)/medvlmoe phantom root=runs/phantom images_per_site=300
	$(BIN)/medvlmoe simulate experiment=quickstart

# A whole federation over TLS on this machine: SuperLink, nginx, three hospitals, `flwr run`; ends with a table.
federation-demo: install nginx
	$(BIN)/medvlmoe federation-demo

# The public door of a federation, and of the tests that start one.
nginx:
	@PATH="$$PATH:/usr/sbin"; command -v nginx >/dev/null || $$( [ "$$(id -u)" = 0 ] || echo sudo ) sh -c \
	    'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends nginx-light >/dev/null'

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -m "not long" -n $(TEST_PROCESSES)

test-long: install nginx
	$(BIN)/pytest -m "long and not alone" -n $(TEST_PROCESSES) --durations=5
	$(BIN)/pytest -m "long and alone" --durations=10

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
