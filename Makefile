# make run                      the gateway in front of a real small model, on embedded defaults
# make run BACKEND=http://…/v1  in front of an engine of your own
# make test                     the whole suite

PYTHON ?= python3
BACKEND ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lint rules parts bench clean

run: $(VENV)/demo
	$(BIN)/python examples/demo.py $(if $(BACKEND),--backend $(BACKEND))

test: $(VENV)/test parts
	$(BIN)/python -m pytest

# The console is tested in a browser, the alert rules with promtool: Debian's packages chromium and prometheus.
parts:
	@command -v chromium >/dev/null && command -v promtool >/dev/null || { \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium prometheus; } \
	|| { echo "install chromium and prometheus (for promtool), as root: apt-get install chromium prometheus"; exit 1; }

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

rules: parts
	promtool check rules deploy/prometheus/alerts.yml
	promtool test rules deploy/prometheus/alerts_test.yml

bench: $(VENV)/test
	$(BIN)/pip install --quiet -e ".[bench]"
	$(BIN)/python -m bench.speed

clean:
	rm -rf $(VENV) build *.egg-info

# PyTorch first and pinned: an open range takes a CUDA build of several gigabytes.
$(VENV)/demo $(VENV)/test: $(VENV)/%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -e ".[$*]"
	touch $@
