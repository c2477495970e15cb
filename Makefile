# The commands of this project; `make` alone lists them.
#
# The path of the checkout may hold spaces; VENV and PYTHON may not.

VENV = .venv
# The first of these that is a Python this project runs on makes the VENV.
PYTHON = python3 python3.13 python3.12 python3.11 python3.10
UV = uv
ARGS =
# A file of tests to each core, of four at most: each process takes 2 GB.
PARALLEL = -n auto --maxprocesses=4 --dist=loadfile
# Findings that do no harm here; SECURITY.md says why.
AUDIT_ACCEPTED =

INSTALLED = $(VENV)/.installed
FITS = import ensurepip, sys, venv; \
       sys.exit(not (3, 10) <= sys.version_info < (3, 14))
PIP_INSTALL = $(VENV)/bin/python -m pip install --quiet \
              --disable-pip-version-check --no-input

.PHONY: help setup demo test test-faults test-beam lint lock audit

help:
	@echo "make demo   install, then train, score and use a small model"
	@echo "make test   install, then run the tests (ARGS=\"-m 'not slow'\": fewer)"
	@echo "make test-faults  kill processes, fill disks: what takes minutes"
	@echo "make test-beam  install Apache Beam too, then run its test"
	@echo "make lint   check format and style"
	@echo "make setup  install only"
	@echo "make lock   renew requirements.lock, with uv (ARGS=--upgrade: newest)"
	@echo "make audit  ask for known weaknesses of what is locked, with uv"
	@echo "VENV=DIR installs into DIR, not .venv; PYTHON=FILE chooses the Python"

setup: $(INSTALLED)

demo: $(INSTALLED)
	@$(VENV)/bin/python tools/demo.py

test: $(INSTALLED)
	@$(VENV)/bin/python -m pytest -m "not faults" $(PARALLEL) $(ARGS)

test-faults: $(INSTALLED)
	@$(VENV)/bin/python -m pytest -m faults $(ARGS)

test-beam: $(INSTALLED)
	@$(PIP_INSTALL) --editable '.[beam]'
	@$(VENV)/bin/python -m pytest tests/data/test_prepare_beam.py $(ARGS)

lint: $(INSTALLED)
	@$(VENV)/bin/python -m ruff format --check .
	@$(VENV)/bin/python -m ruff check .

lock:
	@$(UV) pip compile --quiet --no-config --universal --python-version 3.10 \
	  --generate-hashes --custom-compile-command "make lock" --extra dev \
	  --constraint requirements/constraints.in $(ARGS) \
	  setup.py requirements/build.in --output-file requirements.lock

# Strict, because a package that nobody could ask about is not clean.
audit:
	@$(UV) tool run pip-audit --strict --requirement requirements.lock \
	  --require-hashes --disable-pip --progress-spinner off \
	  $(addprefix --ignore-vuln ,$(AUDIT_ACCEPTED)) $(ARGS)

# Written last, so an installation that was broken off is taken up again.
$(INSTALLED): requirements.lock setup.py pyproject.toml
	@test -x $(VENV)/bin/pip || { \
	  for python in $(PYTHON) none; do \
	    "$$python" -c '$(FITS)' 2>/dev/null && break; \
	  done; \
	  test "$$python" != none || { \
	    echo "No Python 3.10 to 3.13 with venv among: $(PYTHON);" \
	      "install one, or name it: make PYTHON=/path/to/python" >&2; \
	    exit 1; \
	  }; \
	  "$$python" -m venv $(VENV); \
	}
	@echo "Installing medgan_tf and TensorFlow into $(VENV): 2.5 GB on disk," \
	  "a minute or two, only this once."
	@$(PIP_INSTALL) --require-hashes --only-binary :all: -r requirements.lock
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@
