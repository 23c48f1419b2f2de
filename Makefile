# `make up` brings up the whole service on this machine; `make test` runs every test.
# Nothing has to be installed first, as root; otherwise the commands to type are printed.

# uv, wherever it is: on PATH, or put into .uv/ by this file.
export PATH := $(CURDIR)/.uv/bin:$(PATH)
unexport VIRTUAL_ENV
RUN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help up down setup test check bench

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 8

up: .venv/done  ## install what is missing, build, start, and try each CLI once
	@$(RUN)/hutch up

down: .venv/done  ## end every program, container and network that `make up` made
	@$(RUN)/hutch down

setup: .venv/done  ## install what is missing and build the image, start nothing
	@$(RUN)/hutch setup

test: setup  ## every test, on the real engine and the real CLIs
	@$(RUN)/pytest $(TESTS)

check: .venv/done  ## formatting, lint, types, import directions
	@$(RUN)/ruff format --check --quiet .
	@$(RUN)/ruff check --quiet .
	@$(RUN)/mypy
	@$(RUN)/lint-imports --no-cache

bench: setup  ## compare with the bare CLIs; writes bench/results/latest.json
	@$(RUN)/python -m bench

.venv/done: pyproject.toml uv.lock
	@command -v uv >/dev/null || $(MAKE) --no-print-directory .uv/bin/uv
	@uv sync --locked --quiet
	@touch $@

.uv/bin/uv:
	@python3 -c 'import ensurepip, venv' 2>/dev/null || $(MAKE) --no-print-directory python3-venv
	@python3 -m venv .uv
	@.uv/bin/pip install --quiet --disable-pip-version-check uv

.PHONY: python3-venv
python3-venv:
	@if [ "$$(id -u)" = 0 ]; then \
	  apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -q python3-venv >/dev/null; \
	else \
	  echo 'Python cannot make virtual environments here. Type this, then try again:'; \
	  echo '  sudo apt-get update && sudo apt-get install --yes python3-venv'; exit 1; \
	fi
