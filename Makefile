# Everything goes through these targets; each can be run again and does nothing that is already done.
# `make` alone lists them.

PYTHON ?= python3
BIN := .venv/bin
MODEL_DIR := .shoal/models
HOSTS_BIN := .shoal/hosts/venv/bin
COLLECTIONS := .shoal/hosts/collections

# Debian keeps mosquitto in /usr/sbin, which is not in the PATH of ordinary users.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin

# Only PyPI, whatever is configured on this machine: what is in the locks must be there for everybody.
# The existing pins are kept; `make lock UPGRADE=1` looks for newer versions.
UV_COMPILE := $(BIN)/uv --no-config pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--default-index https://pypi.org/simple --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-hosts lint docs deb audit lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make .venv and install everything (compiles llama.cpp once, some minutes)
	@$(PYTHON) bootstrap.py setup

demo: setup ## a small fleet here, asked over MQTT (KEEP=1 leaves it running)
	@$(PYTHON) bootstrap.py broker
	@$(PYTHON) bootstrap.py model
	@$(BIN)/fleet demo --model-dir $(MODEL_DIR) $(if $(KEEP),--keep)

test: setup ## all that must hold before a change goes in: lint, types, every test
	@$(PYTHON) bootstrap.py programs
	@$(PYTHON) bootstrap.py model
	@$(PYTHON) bootstrap.py embeddings
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile
	@echo "No hosts were booted: that needs root and a quarter of an hour (make test-hosts)."

test-hosts: deb ## boot two Debian hosts, install with Ansible, and try what breaks them (needs root, minutes)
	@$(PYTHON) bootstrap.py model
	@$(PYTHON) bootstrap.py hosts
	@$(HOSTS_BIN)/ansible-galaxy collection install --force --collections-path $(COLLECTIONS) ./ansible
	cd $(COLLECTIONS)/ansible_collections/shoal/fleet && PATH=$(abspath $(HOSTS_BIN)):$$PATH \
		ANSIBLE_COLLECTIONS_PATH=$(abspath $(COLLECTIONS)) ansible-lint --offline --strict --profile production
	$(BIN)/python -m pytest tests/hosts

deb: setup ## build the Debian package for this architecture into dist/, with the list of what is inside
	$(BIN)/python -m debian.build

audit: setup ## compare the locks with the index's list of known weaknesses
	@$(PYTHON) bootstrap.py audit

lint: setup ## style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: setup ## write the generated pages again (schemas, sample configuration)
	@$(BIN)/python docs/generate.py

lock: setup ## write the lock files again after a dependency changed (UPGRADE=1: newer versions)
	$(UV_COMPILE) --extra dev --no-emit-package llama-cpp-python --no-emit-package shoal \
		--output-file requirements.lock pyproject.toml
	$(UV_COMPILE) --extra agent --no-emit-package llama-cpp-python --no-emit-package shoal \
		--constraints requirements.lock --output-file requirements-agent.lock pyproject.toml
	$(UV_COMPILE) --extra train --no-emit-package llama-cpp-python --no-emit-package shoal \
		--constraints requirements.lock --output-file requirements-train.lock pyproject.toml
	$(UV_COMPILE) --group llama-build --output-file llama-build.lock
	$(UV_COMPILE) --extra agent --extra fleet --extra postgres --no-emit-package llama-cpp-python --no-emit-package shoal \
		--constraints requirements.lock --output-file requirements-host.lock pyproject.toml
	$(UV_COMPILE) --group hosts --output-file hosts.lock
	grep --only-matching 'llama-cpp-python==[0-9.]*' pyproject.toml \
		| $(UV_COMPILE) --no-deps --output-file llama.lock -

clean: ## remove what the other targets made here (the wheel of llama.cpp and .shoal stay)
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache bench/out build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
