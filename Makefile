# make demo   install what it needs and run the main job, drop to clip
# make test   install what it needs and run the tests
# make lint types format, make bench, make chaos: see below

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types format bench chaos clean

demo: $(VENV)/.installed
	$(BIN)/dropreel demo

test: $(VENV)/.installed-test $(VENV)/.programs
	$(BIN)/pytest -n logical --dist worksteal

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-test $(VENV)/.programs
	$(BIN)/python -m benchmarks

chaos: $(VENV)/.installed-test $(VENV)/.programs
	$(BIN)/python -m tests.chaos chaos-$$(date +%H%M%S)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.installed

# What the tests of the link and of the services run for real. Without them these tests say so and are left out.
$(VENV)/.programs: | $(VENV)/bin/pip
	@missing=; for program in rsync:rsync rrsync:rsync sshd:openssh-server systemd-analyze:systemd; do \
	  PATH="$$PATH:/usr/sbin" command -v $${program%:*} >/dev/null || missing="$$missing $${program#*:}"; done; \
	[ "$$(uname)" = Linux ] || missing=$$(echo "$$missing" | sed 's/systemd\|openssh-server//g'); \
	if [ -z "$$(echo $$missing)" ]; then touch $@; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null && touch $@; \
	elif [ "$$(uname)" = Linux ]; then echo "Some tests are left out. To run them all: sudo apt install$$missing"; \
	else echo "Some tests are left out. To run them all: brew install$$missing"; fi

# Debian keeps the venv module in a package of its own: installed where we may, else named.
$(VENV)/bin/pip:
	@test -n "$(PYTHON)" || { echo "Dropreel needs Python 3.11 or newer: apt install python3, or brew install python"; exit 1; }
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { rm -rf $(VENV); \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
	  then apt-get update -qq && apt-get install -y -qq python3-venv && $(PYTHON) -m venv $(VENV); \
	  else echo "Python's venv module is missing: sudo apt install python3-venv, then make again"; exit 1; fi; }
