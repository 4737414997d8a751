# cbp: everything a developer types. Needs GNU make, a C compiler and Python 3.11 or newer
# with venv and headers (Debian, Ubuntu: apt install make gcc libc6-dev python3-dev
# python3-venv).
# Everything else is installed into .venv. A second call does only what has changed.
#
#   make demo PYTHON=python3.13         another Python (after `make clean`)
#   make test PYTEST_ARGS="-x -k sgd"   some tests
#   make test CBP_DEBUG=1               the same tests on a build with bounds checks
#   make wheels WHEELS=manylinux_aarch64  one platform
#   make bench BENCH_ARGS=--quick       under three minutes, not counting installation

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
LEFT_OUT ?=
BENCH_ARGS ?=
PLATFORMS ?=
SANITIZE ?=
WHEELS ?=
NUMBER ?= 10000
SEED ?= 0
COVERAGE ?=
MUTANTS ?=

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check -q
REQUIREMENTS := $(PY) tools/requirements.py

# Stamps: empty files that say when a step was last done.
MADE := $(VENV)/made
BUILT := $(VENV)/built$(if $(filter-out 0,$(CBP_DEBUG)),-debug)
RUN_TOOLS := $(VENV)/run-tools
TEST_TOOLS := $(VENV)/test-tools
DEV_TOOLS := $(VENV)/dev-tools
BENCH_TOOLS := $(VENV)/bench-tools
PLATFORM_TOOLS := $(VENV)/platform-tools
THREAD_TOOLS := $(VENV)/thread-tools
WHEEL_TOOLS := $(VENV)/wheel-tools
COVERAGE_TOOLS := $(VENV)/coverage-tools

FREETHREADED := build/freethreaded

COMPILED := $(wildcard cbp/*.pyx cbp/*.pxd src_c/*.c src_c/*.h)
C_FILES := $(filter %.c %.h,$(COMPILED)) $(wildcard tests/*.c benchmarks/*.c)
CYTHON_FILES := $(filter %.pyx %.pxd,$(COMPILED))
C_CHECK := -Isrc_c -std=gnu11 -O2 -ffp-contract=off -fno-math-errno -Wall -Wextra -Werror

.PHONY: help demo test test-freethreaded test-threads sanitize test-platforms run-platforms coverage mutants test-faults properties bench bench-all bench-train bench-scripts build wheels wheels-here lint lint-python lint-cython lint-c lint-forge format clean

help:
	@echo "make demo    grid-search activations on the digits set, beside MLPClassifier"
	@echo "make test    run all tests"
	@echo "make test-freethreaded  all tests on a Python without the GIL, each in four"
	@echo "             threads at once (on Debian; the first call builds that Python)"
	@echo "make test-platforms  run what one Linux machine can run or emulate of all"
	@echo "             platforms (over an hour; PLATFORMS=\"neon wine\" for some parts)"
	@echo "make properties  10,000 random configurations beside other implementations"
	@echo "             (11 minutes of CPU time; NUMBER=1000 for fewer, SEED=1 for others)"
	@echo "make test-faults  refuse memory and threads to calls, at each request in turn;"
	@echo "             train on 2^31 entries; interrupt 200 calls (over an hour)"
	@echo "make coverage  which lines and branches of the C code the tests run (half an hour)"
	@echo "make mutants change the C code in 200 places, one at a time, and see whether a"
	@echo "             test notices (an hour or more; MUTANTS=\"--count 20 --seed 7\")"
	@echo "make sanitize  the tests on builds that watch every access to memory, and races"
	@echo "             (hours; SANITIZE=part: what .ci/run does of it)"
	@echo "make bench   time training beside MLPClassifier, PyTorch and JAX (15 minutes;"
	@echo "             with BENCH_ARGS=--quick under three): benchmarks/results.md, .png"
	@echo "make bench-all  all benchmarks, every section of results.md (over an hour;"
	@echo "             with BENCH_ARGS=--quick some six minutes)"
	@echo "make build   build the extension modules, nothing else"
	@echo "make wheels  build and check the wheels of all platforms, on Linux; into dist/"
	@echo "             (eight, each some minutes; WHEELS=\"macos_arm64 windows_amd64\": two)"
	@echo "make lint    check the style of Python, Cython and C, and the files of the forge"
	@echo "make format  let ruff and clang-format rewrite Python and C"
	@echo "make clean   remove everything that these commands made, .venv too"

demo: $(BUILT)
	@$(PY) -u examples/grid_search_activations.py

# One process of tests for each core: two cores take two thirds of the time.
test: $(BUILT) $(TEST_TOOLS)
	$(PY) -m pytest -n auto $(PYTEST_ARGS)

# A Python of its own and an environment of its own. Where pip has no build of the newest
# NumPy for it, it is to take an older one, not to compile. There is no polars at all, and
# no safetensors.
test-freethreaded: $(FREETHREADED)/bin/python3t
	PIP_ONLY_BINARY=:all: $(MAKE) PYTHON=$(CURDIR)/$< VENV=$(FREETHREADED)/venv \
	    LEFT_OUT="polars safetensors" PYTEST_ARGS="--parallel-threads=4 $(PYTEST_ARGS)" test-threads

$(FREETHREADED)/bin/python3t:
	@echo "== building a Python without the GIL (six minutes of CPU time)"
	@$(PYTHON) tools/freethreaded.py $(FREETHREADED)

test-threads: $(BUILT) $(TEST_TOOLS) $(THREAD_TOOLS)
	$(PY) -m pytest $(PYTEST_ARGS)
	$(PY) benchmarks/threads.py --quick --output -

# Builds of its own, in build/sanitize; what is run and how: tools/sanitize.py.
sanitize: $(BUILT) $(TEST_TOOLS)
	$(PY) tools/sanitize.py $(SANITIZE)

# In an environment of its own; what is emulated, and by what: tools/test_platforms.py.
test-platforms:
	$(MAKE) VENV=.venv-platforms run-platforms

run-platforms: $(RUN_TOOLS) $(TEST_TOOLS) $(PLATFORM_TOOLS)
	$(PY) tools/test_platforms.py $(PLATFORMS)

properties: $(BUILT) $(TEST_TOOLS)
	$(PY) tests/properties.py --number $(NUMBER) --seed $(SEED)

# What `make test` does a part of: docs/reliability.md says what is promised.
test-faults: $(BUILT) $(TEST_TOOLS)
	$(PY) tests/starve.py
	$(PY) tests/test_sizes.py
	$(PY) benchmarks/interrupts.py

coverage: $(RUN_TOOLS) $(TEST_TOOLS) $(COVERAGE_TOOLS)
	$(PY) tools/coverage_c.py $(COVERAGE)

mutants: $(RUN_TOOLS) $(TEST_TOOLS)
	$(PY) tools/mutants.py $(MUTANTS)

# Benchmarks run in an environment of their own, with all peers.
bench:
	$(MAKE) VENV=.venv-bench bench-train

bench-all:
	$(MAKE) VENV=.venv-bench bench-scripts

bench-train: $(BUILT) $(BENCH_TOOLS)
	$(PY) benchmarks/compare.py $(BENCH_ARGS)

bench-scripts: bench-train
	@for script in kernels prediction search growth monitor callbacks options threads calls latency; do \
	    echo "$(PY) benchmarks/$$script.py $(BENCH_ARGS)"; \
	    $(PY) benchmarks/$$script.py $(BENCH_ARGS) || exit 1; \
	done

build: $(BUILT)

# An environment of its own again: a cross compiler and tools that look into wheels.
wheels:
	@$(MAKE) --no-print-directory VENV=.venv-wheels wheels-here

wheels-here: $(WHEEL_TOOLS)
	@$(PY) tools/make_wheels.py $(WHEELS)

# `make -k lint` goes on after a failure and shows them all.
lint: lint-python lint-cython lint-c lint-forge

lint-python: $(DEV_TOOLS)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

lint-cython: $(DEV_TOOLS)
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cython-lint $(CYTHON_FILES)

lint-c: $(DEV_TOOLS)
	$(PY) tools/format_c.py --check $(C_FILES)
	@for file in $(wildcard src_c/*.c); do \
	    echo "$(CC) -fsyntax-only -Werror $$file"; \
	    $(CC) $(C_CHECK) -fsyntax-only "$$file" || exit 1; \
	done

# Workflows, forms and CITATION.cff against the schemas that come with the tool.
SCHEMA := $(PY) -m check_jsonschema -q --builtin-schema

lint-forge: $(DEV_TOOLS)
	$(SCHEMA) vendor.github-workflows .github/workflows/*.yml
	$(SCHEMA) custom.github-workflows-require-timeout .github/workflows/*.yml
	$(SCHEMA) vendor.dependabot .github/dependabot.yml
	$(SCHEMA) vendor.github-issue-forms .github/ISSUE_TEMPLATE/*_*.yml
	$(SCHEMA) vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(SCHEMA) vendor.citation-file-format --default-filetype yaml CITATION.cff
	$(VENV)/bin/zizmor --offline --no-progress --quiet --persona auditor .github

format: $(DEV_TOOLS)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(PY) tools/format_c.py $(C_FILES)

clean:
	rm -rf build dist *.egg-info $(VENV) .venv-bench .venv-platforms .venv-wheels
	rm -rf .pytest_cache .ruff_cache
	rm -f cbp/*.so cbp/*.pyd
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(MADE):
	@$(PYTHON) tools/check_machine.py
	@echo "== making $(VENV) with `$(PYTHON) --version`"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(RUN_TOOLS): $(MADE) pyproject.toml
	@echo "== installing what cbp needs to be built and run"
	@$(REQUIREMENTS) build run plot > $(VENV)/requirements-run.txt
	@$(PIP) install -r $(VENV)/requirements-run.txt
	@touch $@

# --no-build-isolation: what building needs is in .venv already, no second download.
# compat: a path, not an import hook; else a Python that is started next to this folder
# would take the folder itself for the package.
$(BUILT): $(RUN_TOOLS) $(COMPILED) setup.py pyproject.toml
	@echo "== compiling cbp (about a minute)"
	@rm -f $(VENV)/built*
	@$(PIP) install --no-build-isolation --no-deps \
	    --config-settings editable_mode=compat -e .
	@touch $@

$(TEST_TOOLS): $(MADE) pyproject.toml
	@echo "== installing what the tests need"
	@$(REQUIREMENTS) test files $(LEFT_OUT:%=-%) > $(VENV)/requirements-test.txt
	@$(PIP) install -r $(VENV)/requirements-test.txt
	@touch $@

$(THREAD_TOOLS): $(MADE) pyproject.toml
	@echo "== installing what runs tests in parallel"
	@$(REQUIREMENTS) threads > $(VENV)/requirements-threads.txt
	@$(PIP) install -r $(VENV)/requirements-threads.txt
	@touch $@

$(PLATFORM_TOOLS): $(MADE)
	@echo "== installing a compiler for all platforms (a third of a gigabyte)"
	@$(PIP) install ziglang wheel
	@touch $@

$(COVERAGE_TOOLS): $(MADE) pyproject.toml
	@echo "== installing what adds up coverage"
	@$(REQUIREMENTS) coverage > $(VENV)/requirements-coverage.txt
	@$(PIP) install -r $(VENV)/requirements-coverage.txt
	@touch $@

# One by one: where pip has no build of a peer, the tables say that it is left out.
$(BENCH_TOOLS): $(MADE) benchmarks/requirements-bench.txt
	@echo "== installing the peers (up to two gigabytes)"
	@missing=; for peer in $$(grep -v '^#' benchmarks/requirements-bench.txt); do \
	    $(PIP) install "$$peer" < /dev/null || missing="$$missing $$peer"; \
	done; \
	if [ -z "$$missing" ]; then touch $@; else \
	    echo "== could not be installed and left out, tried again next time:$$missing"; \
	fi

$(DEV_TOOLS): $(MADE) pyproject.toml
	@echo "== installing the tools that check style and make packages"
	@$(REQUIREMENTS) dev > $(VENV)/requirements-dev.txt
	@$(PIP) install -r $(VENV)/requirements-dev.txt
	@touch $@

$(WHEEL_TOOLS): $(MADE) pyproject.toml
	@echo "== installing a cross compiler and what looks into wheels (100 megabytes)"
	@$(REQUIREMENTS) build wheels > $(VENV)/requirements-wheels.txt
	@$(PIP) install -r $(VENV)/requirements-wheels.txt
	@touch $@
