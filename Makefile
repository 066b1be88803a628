# `make run` and `make test` do all set-up themselves, in .venv; see README.md.
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find csrc -name '*.[ch]') csrc/build.py setup.py pyproject.toml
C_FILES = $(shell find csrc -name '*.c')
C_FLAGS := -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -fsyntax-only -Icsrc
MEASURED := build/measured
# What must be tested as users get it, at full speed and size; all else runs once, in the instrumented copy.
AS_BUILT := tests/e2e tests/test_lean.py tests/test_build.py tests/test_layering.py \
	tests/control/test_options.py::test_the_parser_imports_nothing_slow \
	tests/worker/test_slowpath.py::test_the_slow_path_imports_nothing_but_its_own_modules
# Some tests start Python without site-packages, where an editable installation is unknown.
PYTEST := PYTHONPATH=$(CURDIR) $(BIN)/pytest --durations=10
export PATH := $(PATH):/usr/sbin:/sbin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Workers that are left behind at the end fail the run; unset it where something else runs from this checkout.
export PASTA_TESTS_ALONE ?= 1

.PHONY: run build dev test lint test-units test-as-built coverage fuzz fuzz-quick fuzz-seed fuzz-coverage man bench bench-quick clean

run: build
	$(BIN)/python bench/demo.py

build: $(VENV)/built

$(VENV)/python:
	@python=$$(tests/prepare.sh build) && $$python -m venv $(VENV) && $(BIN)/pip install -q 'setuptools>=77' 'cffi>=1.16'
	@touch $@

$(VENV)/built: $(VENV)/python $(SOURCES)
	$(BIN)/pip install -q --no-build-isolation -e .
	@touch $@

$(VENV)/dev: $(VENV)/built
	$(BIN)/pip install -q --no-build-isolation -e '.[dev]'
	@touch $@

dev: $(VENV)/dev

# The tools first, so that their absence is the first thing said.
test:
	@tests/prepare.sh test >/dev/null
	$(MAKE) --no-print-directory lint
	$(MAKE) --no-print-directory test-units
	$(MAKE) --no-print-directory test-as-built
	$(MAKE) --no-print-directory fuzz-quick
	$(MAKE) --no-print-directory coverage

lint: dev
	$(BIN)/ruff check
	$(BIN)/mypy
	@for file in $(C_FILES) $(wildcard fuzz/targets/*.c); do gcc $(C_FLAGS) -Ifuzz/targets $$file && clang $(C_FLAGS) -Ifuzz/targets $$file || exit 1; done
	@echo "C: clean under gcc and clang"

test-units: dev
	$(BIN)/python tests/measure/prepare.py $(MEASURED)
	cd $(MEASURED) && PYTHONPATH=. PASTA_COVERAGE=$(CURDIR)/$(MEASURED)/data $(CURDIR)/$(BIN)/coverage run -m pytest --durations=10 \
		$(foreach path,$(AS_BUILT),--deselect=$(path))

test-as-built: dev
	$(PYTEST) $(AS_BUILT)

coverage: dev
	@$(BIN)/python tests/measure/report.py $(MEASURED)

# Every target of fuzz/ and the models, for TIME seconds together; the short form is part of `make test`, which runs the models itself.
TIME := 600
fuzz: dev
	@tests/prepare.sh test >/dev/null
	$(BIN)/python fuzz/run.py $(TIME) --rounds

fuzz-quick: dev
	$(BIN)/python fuzz/run.py 70

# What `make fuzz` says when a model has failed.
fuzz-seed: dev
	$(BIN)/pytest -q fuzz --hypothesis-seed=$(SEED)

fuzz-coverage: dev
	$(BIN)/python fuzz/run.py --coverage

man: build
	$(BIN)/python -m pasta_py.control.man >docs/pasta-py.1

bench: build
	$(BIN)/python -m bench

bench-quick: build
	$(BIN)/python -m bench --quick

clean:
	rm -rf build dist $(VENV) *.egg-info pasta_py/_plane.c pasta_py/_plane*.so .coverage*
