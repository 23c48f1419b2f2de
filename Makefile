# `make up` brings up the whole service on this machine; `make test` runs every test.
# As root nothing has to be installed first; otherwise the commands to type are printed.

# What other projects leave in the environment must not lead uv or Python astray.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME
export UV_PROJECT_ENVIRONMENT := .venv
ifeq ($(strip $(HOME)),)  # as in bare containers; npm and uv keep their caches there
export HOME := $(or $(shell getent passwd "$$(id -u)" | cut -d: -f6),$(CURDIR)/.uv/home)
endif

RUN := .venv/bin
# A working uv of the machine's own, else ours; a version manager's shim may be there and fail.
WORKING_UV = $$(uv --version >/dev/null 2>&1 && echo uv || echo .uv/bin/uv)

.DEFAULT_GOAL := help
.PHONY: help up down setup test check sbom fuzz bench chaos clients official-clients python3-venv squid postgresql tmux

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 8

up: .venv/done  ## install what is missing, build, start, and try each CLI once
	@$(RUN)/hutch up

down: .venv/done  ## end every program, container and network that `make up` made
	@$(RUN)/hutch down

setup: .venv/done  ## install what is missing and build the image, start nothing
	@$(RUN)/hutch setup

test: setup squid postgresql tmux official-clients  ## every test, on the real engine and the real CLIs (TESTS=tests/host: only those)
	@HUTCH_TEST_DATABASE=$(DATABASE) $(RUN)/pytest -n 2 --dist loadscope $(TESTS)

check: .venv/done  ## formatting, lint, types, import directions, known vulnerabilities
	@$(RUN)/ruff format --check --quiet .
	@$(RUN)/ruff check --quiet .
	@$(RUN)/mypy
	@$(RUN)/lint-imports --no-cache
	@$(RUN)/python -m supply_chain audit

sbom: .venv/done  ## list what the service and the image are made of (CycloneDX, in build/sbom)
	@$(RUN)/python -m supply_chain sbom

fuzz: setup  ## made-up requests at the gateway for five minutes, and at the API in numbers
	@HUTCH_TEST_FUZZ_S=300 HUTCH_TEST_EXAMPLES=100 $(RUN)/pytest --timeout 1800 \
	  tests/gateway/test_fuzz.py tests/security/test_parsers.py tests/security/test_schema.py

bench: setup squid  ## compare with the bare CLIs, the gateway with Squid, and time rests; half an hour
	@$(RUN)/python -m bench
	@$(RUN)/python -m bench.gateway
	@$(RUN)/python -m bench.newcomers
	@$(RUN)/python -m bench.rest
	@$(RUN)/python -m bench.hundred
	@$(RUN)/python -m bench.neighbour

chaos: setup  ## kill everything 200 times under load, and audit (CHAOS="--database postgresql"); 20 minutes
	@$(RUN)/python -m chaos $(CHAOS)

clients: .venv/done  ## generate the TypeScript client anew from the API's description
	@cd clients/typescript && npm ci --ignore-scripts --no-audit --no-fund --silent
	@$(RUN)/python -m hutch.cli.openapi >clients/typescript/openapi.json
	@cd clients/typescript && npm run --silent generate

.venv/done: pyproject.toml uv.lock
	@uv --version >/dev/null 2>&1 || $(MAKE) --no-print-directory .uv/bin/uv
	@$(WORKING_UV) sync --locked --quiet
	@touch $@

.uv/bin/uv:
	@python3 -c 'import ensurepip, venv' 2>/dev/null || $(MAKE) --no-print-directory python3-venv
	@python3 -m venv .uv
	@.uv/bin/pip install --quiet --disable-pip-version-check uv

python3-venv:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -q >/dev/null; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -q python3-venv >/dev/null; \
	else \
	  echo 'Python cannot make virtual environments here. Type this, then try again:'; \
	  echo '  sudo apt-get update && sudo apt-get install --yes python3-venv'; exit 1; \
	fi

# Tests start servers of their own; the package's stays off.
postgresql:
	@if ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1; then exit 0; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -q >/dev/null; \
	  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -q postgresql >/dev/null; \
	  if [ -d /run/systemd/system ]; then systemctl disable --now --quiet postgresql; fi; \
	else \
	  echo 'PostgreSQL is not installed here. Type this, then try again:'; \
	  echo '  sudo apt-get update && sudo apt-get install --yes postgresql'; exit 1; \
	fi

# The command line is tested in a real terminal.
tmux:
	@if command -v tmux >/dev/null; then exit 0; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -q >/dev/null; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends tmux >/dev/null; \
	else \
	  echo 'tmux is not installed here. Type this, then try again:'; \
	  echo '  sudo apt-get update && sudo apt-get install --yes tmux'; exit 1; \
	fi

# Others' clients of the compatible endpoints, as the tests drive them.
official-clients: build/official-clients/done

OTHERS := tests/official_clients
build/official-clients/done: $(addprefix $(OTHERS)/,pyproject.toml uv.lock package.json package-lock.json) | .venv/done
	@UV_PROJECT_ENVIRONMENT=$(CURDIR)/build/official-clients $(WORKING_UV) sync --project $(OTHERS) --locked --quiet
	@cd $(OTHERS) && npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@

# Stands in for exits in tests and in `hutch demo egress`; the package's own service stays off.
squid:
	@if [ -x /usr/sbin/squid ] && command -v openssl >/dev/null; then exit 0; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -q >/dev/null; \
	  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -q squid openssl >/dev/null; \
	  if [ -d /run/systemd/system ]; then systemctl disable --now --quiet squid; fi; \
	else \
	  echo 'Squid is not installed here. Type this, then try again:'; \
	  echo '  sudo apt-get update && sudo apt-get install --yes squid openssl'; exit 1; \
	fi
