# `make run` and `make test` do all set-up themselves, in .venv; see README.md. `make help` prints each target's `##`.
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find csrc -name '*.[ch]') csrc/build.py setup.py pyproject.toml
C_FOLDERS := bench csrc fuzz tests
C_FILES = $(shell find csrc -name '*.c')
# Compilers for other platforms, where they are there.
FOREIGN := $(shell command -v aarch64-linux-gnu-gcc) $(wildcard $(CURDIR)/build/musl/cc)
C_FLAGS := -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -fsyntax-only -Icsrc
MEASURED := build/measured
# Some tests start Python without site-packages, where an editable installation is unknown.
PYTEST := PYTHONPATH=$(CURDIR) $(BIN)/pytest --durations=10
# Of what tests at the same time. Two at most: more disturb each other.
WORKERS := $(shell [ "$$(nproc)" -gt 1 ] && echo 2 || echo 1)
# What end-to-end tests and `make bench` start, unless the caller names another: the programs as they are after `pip install .`.
AS_INSTALLED = PASTA_UNDER_TEST=$${PASTA_UNDER_TEST:-$(CURDIR)/build/as-installed/bin/pasta}
export PATH := $(PATH):/usr/sbin:/sbin
# Where programs of Debian sid are, also for tests that run in a copy of the sources.
export PASTA_SID_ROOT ?= $(CURDIR)/build/sid
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Workers that are left behind at the end fail the run; unset it where something else runs from this checkout.
export PASTA_TESTS_ALONE ?= 1

.PHONY: run help build dev test lint test-units test-as-built coverage fuzz fuzz-quick fuzz-seed fuzz-coverage options-off \
	analyze sanitize sanitize-quick valgrind valgrind-quick soak test-follow test-podman test-vm test-browser test-clients \
	test-prometheus man \
	bench bench-quick bench-redraw bench-heuristics bench-start bench-start-versions bench-vm bench-peer clean

run: build ## build, start an HTTP server on the host, fetch a file from it in a new network, summarise the capture
	@echo "[3/3] a file from the host into a network of its own, and back to you as a capture"
	@$(BIN)/python bench/demo.py

help: ## this list
	@sed -nE 's/^([a-z0-9-]+):[^#]*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

build: $(VENV)/built ## compile the C core and install the programs into .venv, from this checkout

$(VENV)/python:
	@echo "[1/3] a virtual environment in $(VENV), with setuptools and cffi from PyPI"
	@python=$$(tests/prepare.sh build) && $$python -m venv $(VENV) && $(BIN)/pip install -q 'setuptools>=77' 'cffi>=1.16'
	@touch $@

$(VENV)/built: $(VENV)/python $(SOURCES)
	@echo "[2/3] compiling the C core, about a minute, and installing the programs into $(VENV)"
	@$(BIN)/pip install -q --no-build-isolation -e .
	@touch $@

$(VENV)/dev: $(VENV)/built
	$(BIN)/pip install -q --no-build-isolation -e '.[dev]'
	@touch $@

dev: $(VENV)/dev ## build, and what tests and linters need from PyPI

# prepare.sh comes first: it names the tools that are missing before anything else takes time.
test: ## lint, all tests, and short forms of fuzz, sanitize, valgrind, soak and test-podman
	@tests/prepare.sh test >/dev/null
	@# Only the tests of runtimes and virtual machines need these downloads: they run in the background meanwhile.
	@tests/sid.sh "$$PASTA_SID_ROOT" >/dev/null 2>&1 &
	@tests/sid.sh build/vm $$(sed -n 's/^\([^# ][^ ]*\) \([^ ]*\)$$/\1=\2/p' tests/vm/packages.txt) >/dev/null 2>&1 &
	@[ "$$(id -u)" != 0 ] || sh tests/runtimes/root.sh "$${PASTA_DEBIAN_ROOT:-$(CURDIR)/build/debian/$${SUITE:-trixie}}" ahead >/dev/null 2>&1 &
	$(MAKE) --no-print-directory lint
	@mkdir -p build
	@# Fuzzing takes the CPU time that these tests leave free. It ends before the tests that measure time begin. Of two copies that are
	@# tested at once only root can tell whose workers are left (tests/conftest.py).
	@nice -n 19 $(BIN)/python fuzz/run.py $(FUZZ_QUICK_S) >build/fuzz-quick.txt 2>&1 & fuzz=$$!; trap 'kill $$fuzz 2>/dev/null' EXIT INT TERM; \
		$(MAKE) --no-print-directory --output-sync=target -j $$([ "$$(id -u)" = 0 ] && echo $(WORKERS) || echo 1) \
			test-units sanitize-quick valgrind-quick && \
		{ wait $$fuzz; status=$$?; cat build/fuzz-quick.txt; exit $$status; }
	$(MAKE) --no-print-directory test-as-built
	$(MAKE) --no-print-directory coverage

lint: dev ## ruff, mypy, clang-format, C under gcc and clang without warnings, and analyze
	$(BIN)/ruff check
	$(BIN)/mypy
	@clang-format --dry-run -Werror $$(find $(C_FOLDERS) -name '*.[ch]')
	@for file in $(C_FILES) $(wildcard fuzz/targets/*.c); do gcc $(C_FLAGS) -Ifuzz/targets $$file && clang $(C_FLAGS) -Ifuzz/targets $$file || exit 1; done
	@for cc in $(FOREIGN); do for file in $(C_FILES); do $$cc $(C_FLAGS) $$file || exit 1; done; done
	@echo "C: clean under gcc and clang $(notdir $(FOREIGN))"
	$(MAKE) --no-print-directory analyze

# gcc 12 loses track of pointers kept in arrays, so leaks are left to LeakSanitizer and valgrind.
analyze: ## static analysis of the C core: gcc -fanalyzer and clang-tidy
	@printf '%s\n' $(C_FILES) | xargs -P 2 -I {} gcc -std=c11 -D_GNU_SOURCE -Icsrc -O1 -fanalyzer -Wno-analyzer-malloc-leak \
		-Werror -c {} -o /dev/null
	@printf '%s\n' $(C_FILES) | xargs -P 2 -n 1 sh -c 'clang-tidy --quiet "$$@" -- -std=c11 -D_GNU_SOURCE -Icsrc 2>/dev/null' clang-tidy
	@echo "C: nothing found by gcc -fanalyzer and clang-tidy"

test-units: dev ## the tests that run in the instrumented copy (build/measured)
	$(BIN)/python tests/measure/prepare.py $(MEASURED)
	cd $(MEASURED) && PYTHONPATH=. PASTA_COVERAGE=$(CURDIR)/$(MEASURED)/data $(CURDIR)/$(BIN)/coverage run -m pytest --durations=10 \
		-m 'not as_built'

test-as-built: dev ## the tests of the program as users get it, end-to-end tests included
	tests/as_installed.sh $(VENV) build/as-installed
	$(AS_INSTALLED) $(PYTEST) -n $(WORKERS) -m 'as_built and not quiet'
	$(AS_INSTALLED) $(PYTEST) -m 'as_built and quiet'

coverage: dev ## what test-units executed, by file
	@$(BIN)/python tests/measure/report.py $(MEASURED)

# fuzz: all fuzz targets and the models share TIME seconds. fuzz-quick: the targets share FUZZ_QUICK_S seconds, less than the tests
# take beside which it runs in `make test`. These run the models too.
TIME := 600
FUZZ_QUICK_S := 300
fuzz: dev ## search for counterexamples for TIME seconds (600)
	@tests/prepare.sh test >/dev/null
	$(BIN)/python fuzz/run.py $(TIME) --rounds

fuzz-quick: dev ## five minutes of the fuzz targets, part of test
	$(BIN)/python fuzz/run.py $(FUZZ_QUICK_S)

# `make fuzz` prints this line when a model or a property fails.
fuzz-seed: dev ## repeat the failure of a model with SEED
	$(BIN)/python fuzz/run.py --seed $(SEED)

fuzz-coverage: dev ## which lines of csrc/ the corpora of the C targets execute
	$(BIN)/python fuzz/run.py --coverage

# Sandboxed workers and helpers run with sanitizers too. The markers in pyproject.toml select the tests.
SANITIZED := build/sanitized
run_sanitized := $(BIN)/python tests/measure/sanitized.py $(SANITIZED) address,undefined -q --durations=5

sanitize: dev ## the tests (TESTS) with AddressSanitizer and UndefinedBehaviorSanitizer in the core
	$(run_sanitized) -m 'not unsanitized' $(TESTS)

sanitize-quick: dev ## its short form, part of test
	$(run_sanitized) -m 'sanitize_quick and not unsanitized'

# valgrind finds bytes that are used before they have a value. The short form runs the corpora of the fuzz targets `session` and
# `frame`, built without sanitizers. The long form adds the inputs that `make fuzz` has found and the unit tests of the pure folders.
VALGRIND := valgrind -q --error-exitcode=9
PLAIN := build/fuzz-plain
valgrind-quick: dev ## the fuzz corpora under valgrind, part of test
	PASTA_FUZZ_FLAGS=-fsanitize=fuzzer $(BIN)/python fuzz/build.py $(PLAIN)
	@for target in session frame; do \
		$(VALGRIND) --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite \
			$(PLAIN)/$$target -runs=0 fuzz/corpus/$$target $(if $(CORPUS),$(CORPUS)/$$target) >$(PLAIN)/$$target.txt 2>&1 || \
			{ cat $(PLAIN)/$$target.txt; exit 1; }; done
	@echo "C: nothing found by valgrind"

valgrind: dev ## the same with what fuzz has added, and unit tests
	@mkdir -p build/fuzz/corpus/session build/fuzz/corpus/frame
	$(MAKE) --no-print-directory valgrind-quick CORPUS=build/fuzz/corpus
	PYTHONMALLOC=malloc $(VALGRIND) --suppressions=tests/measure/valgrind.supp $(BIN)/python -m pytest -q \
		$(addprefix tests/csrc/test_,wire.py base.py core.py reassembly.py)

# The short forms of these tests are part of `make test`.
SOAK_S = $(if $(filter command environment,$(firstword $(origin TIME))),$(TIME),1200)
soak: dev ## long tests: addresses of old names, floods one by one, stops of 30 s, 500 kills, TIME seconds (1200) of mixed traffic
	PASTA_LONG=1 PASTA_SOAK_S=$(SOAK_S) $(PYTEST) -s tests/e2e/test_floods.py tests/e2e/test_faults.py tests/e2e/test_loss.py \
		tests/e2e/test_kill.py tests/e2e/test_soak.py tests/e2e/test_egress_scenarios.py

# `make test` has a short form.
test-follow: dev ## 2,000 random changes of the host, throughput beside them, pairs of interfaces for 20 s, whole leases of networkd
	tests/as_installed.sh $(VENV) build/as-installed
	PASTA_LONG=1 $(AS_INSTALLED) $(PYTEST) -s tests/e2e/test_follow_processes.py tests/e2e/test_follow_guests.py \
		-k "walk or throughput or hundreds or networkd"

# `make test` has a short form, with fewer containers.
test-podman: dev ## real podman, buildah and rootlesskit in a Debian root, SUITE=trixie or sid; as root
	@tests/prepare.sh test >/dev/null
	PASTA_LONG=1 $(PYTEST) -s tests/runtimes

test-browser: dev ## the report in Chromium (Debian packages chromium and chromium-driver)
	$(PYTEST) tests/browser/report_in_browser.py

test-prometheus: dev ## Debian's Prometheus scrapes and answers the dashboard's queries, Grafana's schema knows it (fetches both)
	tests/as_installed.sh $(VENV) build/as-installed
	[ -e build/prometheus/usr/bin/prometheus ] || { mkdir -p build/prometheus && cd build/prometheus && \
		apt-get download -q prometheus && dpkg-deb -x prometheus_*.deb .; }
	$(BIN)/pip install -q grafana-foundation-sdk
	$(AS_INSTALLED) $(PYTEST) tests/e2e/prometheus_scrapes.py

test-clients: dev ## languages, browsers, HTTP/3, FTP, WebRTC and validating resolvers under an egress policy (fetches them; needs javac)
	tests/as_installed.sh $(VENV) build/as-installed
	command -v javac >/dev/null || apt-get install -y -q --no-install-recommends default-jdk-headless
	command -v chromium >/dev/null || apt-get install -y -q --no-install-recommends chromium
	sh tests/clients/fetch.sh build/clients
	sh tests/sid.sh build/clients-sid curl nginx
	[ -e build/clients-dotnet/dotnetcore2 ] || $(BIN)/pip install -q --no-deps --target build/clients-dotnet dotnetcore2==3.1.23
	$(AS_INSTALLED) $(PYTEST) tests/e2e/clients_under_rules.py tests/e2e/applications_under_rules.py

# `make test` has a short form: one boot.
test-vm: dev ## real virtual machines under QEMU behind passt, without acceleration
	tests/as_installed.sh $(VENV) build/as-installed
	PASTA_LONG=1 $(AS_INSTALLED) $(PYTEST) tests/vm tests/e2e/test_machine_storms.py

.PHONY: wheels-native wheels-arm64 wheels-musl wheels test-arm64 test-musl
WHEELS = sh packaging/wheels.sh build/wheels $(SDIST)
MUSL := build/musl/python/bin
wheels: wheels-native wheels-arm64 wheels-musl ## wheels in build/wheels: of this machine, for arm64, and for musl

wheels-native: dev sdist
	@$(BIN)/pip install -q wheel
	@$(WHEELS) $(CURDIR)/$(BIN)/python native

wheels-arm64: dev sdist
	@command -v aarch64-linux-gnu-gcc >/dev/null || { echo "missing: sudo apt-get install -y gcc-aarch64-linux-gnu libc6-dev-arm64-cross" >&2; exit 1; }
	@$(BIN)/pip install -q wheel
	@$(WHEELS) $(CURDIR)/$(BIN)/python arm64

wheels-musl: dev sdist
	@sh tests/arch/musl.sh build/musl $(CURDIR)/$(BIN)/pip
	@$(WHEELS) $(CURDIR)/$(MUSL)/python3 musl

# The machine has no acceleration: with two quiet cores it takes minutes.
test-arm64: wheels-arm64 ## the main job on Debian for arm64, under QEMU, with the calls it uses; as root
	sh tests/arch/root.sh build/arm64
	[ -e build/arm64/prepared ] || { $(BIN)/python tests/arch/boot.py build/arm64 prepare && touch build/arm64/prepared; }
	$(BIN)/python tests/arch/boot.py build/arm64 check build/wheels/*_aarch64.whl 'sh tests/arch/main_job.sh /opt/venv/bin'

# musl 1.2.5 has no close_range(), so Python closes a million descriptors one by one. strace leaves these out.
test-musl: wheels-musl ## the main job with a Python on musl, with the calls it uses; as root
	$(MUSL)/python3 -m pip install -q --force-reinstall --no-index --no-deps build/wheels/*-musllinux_*.whl
	TRACE='--seccomp-bpf -e trace=!close' unshare --net --pid --mount --fork --kill-child --mount-proc \
		sh tests/arch/main_job.sh $(CURDIR)/$(MUSL)

SDIST = build/sdist/pasta_py-$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' pasta_py/__init__.py).tar.gz
SUITE ?= trixie
.PHONY: sdist test-sdist deb test-deb test-install
sdist: $(VENV)/python ## a source archive in build/sdist
	@$(BIN)/python -c 'from setuptools import build_meta; build_meta.build_sdist("build/sdist")' >/dev/null
	@ls $(SDIST)

# The archive's own Makefile builds, in a fresh directory outside of this checkout. `make test` has a short form (tests/test_build.py).
test-sdist: sdist ## the unit tests from the source archive, unpacked in a fresh directory
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && chmod 755 "$$fresh" && \
		tar -xzf $(SDIST) -C "$$fresh" --strip-components 1 && $(MAKE) -C "$$fresh" --no-print-directory dev && \
		cd "$$fresh" && PYTHONPATH=$$fresh .venv/bin/pytest --durations=10 -m 'not as_built'

deb: sdist ## Debian packages of it in build/deb, SUITE=trixie or sid, checked by lintian; as root
	@sh tests/packages/root.sh build/packages/$(SUITE)
	sh packaging/deb.sh build/packages/$(SUITE) build/deb/$(SUITE) $(SDIST)

test-deb: dev deb ## these packages in fresh roots: installed, tried, removed; their autopkgtest; SUITE=trixie or sid; as root
	@sh tests/runtimes/root.sh "$${PASTA_DEBIAN_ROOT:-$(CURDIR)/build/debian/$(SUITE)}" ahead
	SUITE=$(SUITE) $(PYTEST) tests/packages/deb_packages.py

# The wheel is that of this machine's Python: it has to fit the others.
SUITES := bookworm trixie sid
test-install: dev sdist ## pip, pipx, uv tool, wheel, source archive in fresh roots of SUITES (bookworm trixie sid); as root
	rm -rf build/sdist/wheel && $(BIN)/pip wheel -q --no-deps --no-build-isolation -w build/sdist/wheel $(SDIST)
	for suite in $(SUITES); do SUITE=$$suite $(PYTEST) tests/packages/installations.py || exit 1; done

man: build ## write the manual pages (docs/*.1) and contrib/completions from the option tables
	$(BIN)/python -m pasta_py.control.subcommands.man docs
	@for each in bash/pasta-py zsh/_pasta-py fish/pasta-py.fish; do \
		$(BIN)/python -m pasta_py.control.subcommands.completion --show-completion $${each%/*} >contrib/completions/$$each || exit 1; done

# `make test` checks that each option has such a test.
options-off: dev ## ignore each option once: the tests that are marked with it must fail
	@tests/prepare.sh test >/dev/null
	$(BIN)/python tests/measure/options_off.py build/options-off

# The peer is the passt that bench-peer has fetched, else the machine's own. BENCH has further options, for example
# BENCH='--only "tcp-*,splice-*" --rounds 3'. Table and picture go into docs/dev/performance.md, ten rows into docs/performance.md, some
# of their figures into README.md, all values into build/bench.json.
BENCHED := build/bench.json
BENCH_PAGES := --doc docs/dev/performance.md --page docs/performance.md
bench: dev ## compare with passt, slirp4netns and no translator, about 15 minutes
	tests/as_installed.sh $(VENV) build/as-installed
	$(AS_INSTALLED) $(BIN)/python -m bench --json $(BENCHED) $(BENCH_PAGES) $(BENCH)
	$(BIN)/python -m bench.readme

bench-quick: build ## fewer cells, less than two minutes, changes no file
	tests/as_installed.sh $(VENV) build/as-installed
	$(AS_INSTALLED) $(BIN)/python -m bench --quick $(BENCH)

# BENCH has options, for example BENCH='--only "run queue,late drops"', BENCH='--build-only' or BENCH='--threads 2'.
bench-heuristics: dev ## the core without each heuristic of csrc/core/scheduling.h beside the normal one, about 15 minutes
	$(BIN)/python -m bench.heuristics $(BENCH)

bench-redraw: dev ## tables and picture of docs/performance.md and docs/dev/performance.md, and README.md's figures, again from build/bench.json
	$(BIN)/python -m bench --from $(BENCHED) $(BENCH_PAGES)
	$(BIN)/python -m bench.readme

# Best on a quiet machine. BENCH has further options, such as BENCH='--rounds 40'. As root also in a Debian root of sid, with its Python.
bench-start: dev ## what a start costs beside passt, slirp4netns and a bare Python, about two minutes
	tests/as_installed.sh $(VENV) build/as-installed
	@[ -x build/peer/usr/bin/pasta ] || $(MAKE) --no-print-directory bench-peer
	$(BIN)/python -m bench.starts --ours build/as-installed/bin --python build/as-installed/bin/python3 --peer build/peer/usr/bin/pasta \
		--slirp4netns "$$(command -v slirp4netns || true)" $(BENCH)
	@[ "$$(id -u)" = 0 ] || { echo "bench-start: only root can measure in a Debian root of sid"; exit 0; }; \
		SUITE=sid sh tests/runtimes/root.sh build/debian/sid && cp -r bench build/debian/sid/src/ && \
		unshare --mount --pid --net --fork --kill-child sh tests/runtimes/enter.sh build/debian/sid \
			env PYTHONPATH=/src /usr/bin/python3 -m bench.starts \
			--ours /opt/pasta-py/bin --peer /usr/bin/pasta --slirp4netns /usr/bin/slirp4netns $(BENCH)

# PYTHONS: further interpreters; pyenv's from 3.12 on, unless the caller names others. One wheel fits them all.
PYTHONS = $(wildcard $(HOME)/.pyenv/versions/3.1[2-9]*/bin/python3)
bench-start-versions: bench-start ## the same on further interpreters too (PYTHONS), installed from the wheel, about two minutes each
	@rm -rf build/pythons/wheel && $(BIN)/pip wheel -q --no-deps --no-build-isolation -w build/pythons/wheel .
	@for python in $(PYTHONS); do \
		venv=build/pythons/$$($$python -c 'import platform; print(platform.python_version())') && $$python -m venv $$venv && \
		$$venv/bin/pip install -q build/pythons/wheel/*.whl && \
		$$venv/bin/pip install -q --force-reinstall --no-deps build/pythons/wheel/*.whl && \
		$(BIN)/python -m bench.starts --ours $$venv/bin --python $$venv/bin/python3 --peer build/peer/usr/bin/pasta \
			--slirp4netns "$$(command -v slirp4netns || true)" $(BENCH) || exit 1; done

bench-vm: dev ## passt with virtual machines beside the peer's, about six minutes
	tests/as_installed.sh $(VENV) build/as-installed
	$(AS_INSTALLED) $(BIN)/python -m bench.vm --doc docs/performance.md $(BENCH)

bench-peer: ## fetch the passt of Debian sid into build/peer for the bench; installs nothing
	rm -rf build/peer
	tests/sid.sh build/peer passt
	build/peer/usr/bin/pasta --version

clean: ## remove everything that was built
	rm -rf build dist $(VENV) *.egg-info pasta_py/_plane.c pasta_py/_calls.c pasta_py/*.so .coverage*
