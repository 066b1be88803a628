# `make run` and `make test` do all set-up themselves, in .venv; see README.md.
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find csrc -name '*.[ch]') csrc/build.py setup.py pyproject.toml
C_FILES = $(shell find csrc -name '*.c')
C_FLAGS := -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -fsyntax-only -Icsrc
MEASURED := build/measured
# Some tests start Python without site-packages, where an editable installation is unknown.
PYTEST := PYTHONPATH=$(CURDIR) $(BIN)/pytest --durations=10
# What end-to-end tests and `make bench` start, unless the caller names another: the programs as they are after `pip install .`.
AS_INSTALLED = PASTA_UNDER_TEST=$${PASTA_UNDER_TEST:-$(CURDIR)/build/as-installed/bin/pasta}
export PATH := $(PATH):/usr/sbin:/sbin
# Where programs of Debian sid are, also for tests that run in a copy of the sources.
export PASTA_SID_ROOT ?= $(CURDIR)/build/sid
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Workers that are left behind at the end fail the run; unset it where something else runs from this checkout.
export PASTA_TESTS_ALONE ?= 1

.PHONY: run build dev test lint test-units test-as-built coverage fuzz fuzz-quick fuzz-seed fuzz-coverage options-off \
	analyze sanitize sanitize-quick valgrind valgrind-quick soak test-podman man bench bench-quick bench-redraw bench-peer clean

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
	@# Fetching takes a minute in which the tests before those of the runtimes can run.
	@tests/sid.sh "$$PASTA_SID_ROOT" >/dev/null 2>&1 &
	@[ "$$(id -u)" != 0 ] || sh tests/runtimes/root.sh "$${PASTA_DEBIAN_ROOT:-$(CURDIR)/build/debian/$${SUITE:-trixie}}" ahead >/dev/null 2>&1 &
	$(MAKE) --no-print-directory lint
	@mkdir -p build
	@# Fuzzing takes what the tests of these minutes leave of the processors, and ends before those that measure begin.
	@nice -n 19 $(BIN)/python fuzz/run.py $(FUZZ_QUICK_S) --each >build/fuzz-quick.txt 2>&1 & fuzz=$$!; trap 'kill $$fuzz 2>/dev/null' EXIT INT TERM; \
		$(MAKE) --no-print-directory test-units && $(MAKE) --no-print-directory sanitize-quick && $(MAKE) --no-print-directory valgrind-quick && \
		{ wait $$fuzz; status=$$?; cat build/fuzz-quick.txt; exit $$status; }
	$(MAKE) --no-print-directory test-as-built
	$(MAKE) --no-print-directory coverage

lint: dev
	$(BIN)/ruff check
	$(BIN)/mypy
	@clang-format --dry-run -Werror $$(git ls-files '*.c' '*.h')
	@for file in $(C_FILES) $(wildcard fuzz/targets/*.c); do gcc $(C_FLAGS) -Ifuzz/targets $$file && clang $(C_FLAGS) -Ifuzz/targets $$file || exit 1; done
	@echo "C: clean under gcc and clang"
	$(MAKE) --no-print-directory analyze

# Mistakes that show without running. gcc 12 loses sight of pointers kept in arrays: leaks are for LeakSanitizer and valgrind.
analyze:
	@printf '%s\n' $(C_FILES) | xargs -P 2 -I {} gcc -std=c11 -D_GNU_SOURCE -Icsrc -O1 -fanalyzer -Wno-analyzer-malloc-leak \
		-Werror -c {} -o /dev/null
	@printf '%s\n' $(C_FILES) | xargs -P 2 -n 1 sh -c 'clang-tidy --quiet "$$@" -- -std=c11 -D_GNU_SOURCE -Icsrc 2>/dev/null' clang-tidy
	@echo "C: nothing found by gcc -fanalyzer and clang-tidy"

test-units: dev
	$(BIN)/python tests/measure/prepare.py $(MEASURED)
	cd $(MEASURED) && PYTHONPATH=. PASTA_COVERAGE=$(CURDIR)/$(MEASURED)/data $(CURDIR)/$(BIN)/coverage run -m pytest --durations=10 \
		-m 'not as_built'

test-as-built: dev
	tests/as_installed.sh $(VENV) build/as-installed
	$(AS_INSTALLED) $(PYTEST) -m as_built

coverage: dev
	@$(BIN)/python tests/measure/report.py $(MEASURED)

# Every target of fuzz/ and the models, for TIME seconds together; the short form is part of `make test`, which runs the models
# itself: a minute for each target, two at a time.
TIME := 600
FUZZ_QUICK_S := 60
fuzz: dev
	@tests/prepare.sh test >/dev/null
	$(BIN)/python fuzz/run.py $(TIME) --rounds

fuzz-quick: dev
	$(BIN)/python fuzz/run.py $(FUZZ_QUICK_S) --each

# What `make fuzz` says when a model or a property has failed.
fuzz-seed: dev
	$(BIN)/python fuzz/run.py --seed $(SEED)

fuzz-coverage: dev
	$(BIN)/python fuzz/run.py --coverage

# The tests with AddressSanitizer and UndefinedBehaviorSanitizer in the core, workers in their sandbox and helpers included.
# Which tests: the markers in pyproject.toml.
SANITIZED := build/sanitized
run_sanitized := $(BIN)/python tests/measure/sanitized.py $(SANITIZED) address,undefined -q --durations=5

sanitize: dev
	$(run_sanitized) -m 'not unsanitized'

sanitize-quick: dev
	$(run_sanitized) -m 'sanitize_quick and not unsanitized'

# Bytes that are used before they have a value: the scripts and frames of the fuzz targets, without sanitizers, under valgrind;
# the long form also with those that `make fuzz` has added, and the unit tests of the pure folders.
VALGRIND := valgrind -q --error-exitcode=9
PLAIN := build/fuzz-plain
valgrind-quick: dev
	PASTA_FUZZ_FLAGS=-fsanitize=fuzzer $(BIN)/python fuzz/build.py $(PLAIN)
	@for target in session frame; do \
		$(VALGRIND) --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite \
			$(PLAIN)/$$target -runs=0 fuzz/corpus/$$target $(if $(CORPUS),$(CORPUS)/$$target) >$(PLAIN)/$$target.txt 2>&1 || \
			{ cat $(PLAIN)/$$target.txt; exit 1; }; done
	@echo "C: nothing found by valgrind"

valgrind: dev
	@mkdir -p build/fuzz/corpus/session build/fuzz/corpus/frame
	$(MAKE) --no-print-directory valgrind-quick CORPUS=build/fuzz/corpus
	PYTHONMALLOC=malloc $(VALGRIND) --suppressions=tests/measure/valgrind.supp $(BIN)/python -m pytest -q \
		$(addprefix tests/csrc/test_,wire.py base.py core.py reassembly.py)
# The long forms of tests that have a short one in `make test`: floods one by one, stops of 30 s, 500 kills, mixed traffic.
SOAK_S = $(if $(filter command environment,$(firstword $(origin TIME))),$(TIME),1200)
soak: dev
	PASTA_LONG=1 PASTA_SOAK_S=$(SOAK_S) $(PYTEST) -s tests/e2e/test_floods.py tests/e2e/test_faults.py tests/e2e/test_loss.py \
		tests/e2e/test_kill.py tests/e2e/test_soak.py

# Real podman, buildah and rootlesskit in a Debian root, SUITE=trixie or sid; `make test` starts fewer containers. As root.
test-podman: dev
	@tests/prepare.sh test >/dev/null
	PASTA_LONG=1 $(PYTEST) -s tests/runtimes

man: build
	$(BIN)/python -m pasta_py.control.commandline.man >docs/pasta-py.1

# Every option is forgotten once, and the tests that claim it have to notice; that each is claimed is part of `make test`.
options-off: dev
	@tests/prepare.sh test >/dev/null
	$(BIN)/python tests/measure/options_off.py build/options-off

# Beside what bench-peer has fetched, or the machine's own passt; all cells, about 15 minutes. BENCH has further options, for
# example BENCH='--only "tcp-*,splice-*" --rounds 3'. Table and picture go into docs/performance.md, all values into build/bench.json.
BENCHED := build/bench.json
bench: dev
	tests/as_installed.sh $(VENV) build/as-installed
	$(AS_INSTALLED) $(BIN)/python -m bench --json $(BENCHED) --doc docs/performance.md $(BENCH)

bench-quick: build
	tests/as_installed.sh $(VENV) build/as-installed
	$(AS_INSTALLED) $(BIN)/python -m bench --quick $(BENCH)

# The same table and picture again from the values of a run.
bench-redraw: dev
	$(BIN)/python -m bench --from $(BENCHED) --doc docs/performance.md

# passt as Debian's sid has it now, for `make bench` only; nothing is installed.
bench-peer:
	rm -rf build/peer
	tests/sid.sh build/peer passt
	build/peer/usr/bin/pasta --version

clean:
	rm -rf build dist $(VENV) *.egg-info pasta_py/_plane.c pasta_py/_calls.c pasta_py/*.so .coverage*
