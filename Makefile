# make demo | make test: install everything in .venv (needs only Python 3.11 or 3.12), and run the demo or the tests.
#   make demo QUICK=1               run the demo in two to three minutes
#   make test-unit                  the unit tests, about a minute; make test PYTEST_FLAGS="-x -k compat" runs some
#   make fuzz MINUTES=30            damaged and hostile files, settings and arguments
#   make soak                       hours of audio, thousands of requests; trainings killed 20 times
#   make install PYTHON=/path/to/python3.11
#   make fsdd FSDD=/path/to/free-spoken-digit-dataset    distil a chain of students, three seeds
#   make stochastic FSDD=/path/to/free-spoken-digit-dataset    compare elastic and fixed models, five seeds
#   make gpu MINUTES=30 SPEECH=/path DIGITS=/path      tests, speed and trainings that need a GPU
#   make benchmark ARCHITECTURE=base    compare runtimes; JSON and plot in outputs/
#   make results-check SHARE=0.1    recompute a random share of the recorded error rates from the stored models
#   make results FSDD=/path COMMONVOICE=/path    rebuild every table that needs no GPU; a day, resumable
#   make docs                       build the documentation site: outputs/site/index.html
# Settings of pip apply: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu installs torch without CUDA.

PYTHON ?=
QUICK ?=
PYTEST_FLAGS ?=
FSDD ?=
ARCHITECTURE ?= base
SPEECH ?=
COMMONVOICE ?=
DIGITS ?=
DEVICE ?= cuda
SHARE ?= 0.1
TEST_WORKERS ?= 2
MINUTES ?= 5

PY := .venv/bin/python
STAMP := .venv/installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-unit fuzz gpu soak lint docs fsdd stochastic benchmark results results-check clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | sed -n 1,14p

install: $(STAMP)

# torch is installed first, so that packages that need it to build find it, and pip does not choose another version.
$(STAMP): setup.py constraints.txt Makefile
	@for python in "$(PYTHON)" python3.11 python3.12 python3 python; do \
	  if [ -n "$$python" ] && "$$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; \
	  then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "Python 3.11 or 3.12 with the venv module was not found; choose one with make PYTHON=/path/to/python3.11" >&2; \
	  exit 1; \
	fi; \
	"$$found" -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(PY) -m pip check
	@touch $(STAMP)

demo: $(STAMP)
	$(PY) examples/quickstart/run.py $(if $(QUICK),--quick)

fsdd: $(STAMP)
	@if [ -z "$(FSDD)" ]; then echo "make fsdd FSDD=FOLDER: the folder of the Free Spoken Digit Dataset" >&2; exit 1; fi
	$(PY) examples/fsdd/run.py "$(FSDD)" $(if $(QUICK),--quick)

stochastic: $(STAMP)
	@if [ -z "$(FSDD)" ]; then echo "make stochastic FSDD=FOLDER: the folder of the Free Spoken Digit Dataset" >&2; exit 1; fi
	$(PY) examples/stochastic/digits.py "$(FSDD)" $(if $(QUICK),--quick)

benchmark: $(STAMP)
	mkdir -p outputs
	.venv/bin/w2v-compress benchmark --architecture "$(ARCHITECTURE)" --peers all \
	  --json "outputs/benchmark-$(ARCHITECTURE).json" --plot "outputs/benchmark-$(ARCHITECTURE).png"

test: lint
	$(PY) -m pytest -n $(TEST_WORKERS) $(PYTEST_FLAGS)

test-unit: $(STAMP)
	$(PY) -m pytest -n $(TEST_WORKERS) -m unit $(PYTEST_FLAGS)

results: $(STAMP)
	$(PY) benchmarks/rebuild_results.py $(if $(FSDD),--fsdd "$(FSDD)") \
	  $(if $(COMMONVOICE),--commonvoice "$(COMMONVOICE)")

results-check: $(STAMP)
	$(PY) benchmarks/check_results.py --share $(SHARE) $(if $(FSDD),--fsdd "$(FSDD)")

gpu: $(STAMP)
	$(PY) benchmarks/gpu.py --minutes $(MINUTES) --device $(DEVICE) $(if $(SPEECH),--speech "$(SPEECH)") \
	  $(if $(DIGITS),--digits "$(DIGITS)")

# Twenty searches for examples share the time, on TEST_WORKERS processes.
fuzz: $(STAMP)
	FUZZ_SECONDS=$$(($(MINUTES) * 60 * $(TEST_WORKERS) / 20)) $(PY) -m pytest -n $(TEST_WORKERS) tests/fuzz $(PYTEST_FLAGS)

soak: $(STAMP)
	$(PY) -m pytest -m soak $(PYTEST_FLAGS)
	KILL_ROUNDS=20 $(PY) -m pytest tests/integration/test_long_jobs.py -k in_a_row $(PYTEST_FLAGS)
	GOOD_UTTERANCES=1089 $(PY) -m pytest tests/integration/test_bad_data.py -k left_out $(PYTEST_FLAGS)

lint: $(STAMP)
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy w2v_compress

# Warnings, such as a broken link or a page outside the navigation, are errors (mkdocs.yml). Needs no network.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet
	@echo "outputs/site/index.html"

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
