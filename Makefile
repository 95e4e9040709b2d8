# Two commands: `make demo` and `make test`. Everything lands in .venv, nothing outside it.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test lint bench bench-samplers accuracy false-ok saddle \
	classifier rescaling samplers exact local coverage language figures paper clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 16

setup: $(VENV)/.runtime  ## make .venv with everything llc needs to run
setup-dev: $(VENV)/.dev  ## and what the tests and checks need

demo: $(VENV)/.runtime  ## a first estimate, recorded under runs/dln
	$(BIN)/python expt_dln.py -F runs/dln with quick

test: $(VENV)/.dev  ## the whole test suite, a process for every core
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.dev  ## style, format and types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy llc

bench: $(VENV)/.runtime .venv-bench/.peers  ## time W1-W3 against the peers, write benchmarks/results.md
	$(BIN)/python -m benchmarks.run --peer-python .venv-bench/bin/python
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.resnet
	$(BIN)/python -m benchmarks.gpt
	$(BIN)/python -m benchmarks.elsewhere --peer-python .venv-bench/bin/python

bench-samplers: $(VENV)/.runtime .venv-bench/.peers  ## time HMC, NUTS, MCLMC against BlackJAX's
	$(BIN)/python -m benchmarks.exact_samplers --peer-python .venv-bench/bin/python

figures: $(VENV)/.dev  ## every figure from nothing, into figures/ (under 15 minutes on two cores; resumes)
	$(BIN)/python -m studies.figures

paper: $(VENV)/.runtime  ## the full-size command files, into outputs/paper/, and what they cost
	$(BIN)/python -m studies.paper

accuracy: $(VENV)/.runtime  ## λ̂ against λ on twelve networks, write docs/accuracy.md
	$(BIN)/python -m studies.accuracy

false-ok: $(VENV)/.runtime  ## is `ok` to be believed? write docs/false_ok.md
	$(BIN)/python -m studies.false_ok

saddle: $(VENV)/.runtime  ## λ̂ along saddle-to-saddle training, write docs/saddle.md
	$(BIN)/python -m studies.saddle

classifier: $(VENV)/.runtime  ## learning rate and final λ̂ of a classifier, write docs/classifier.md
	$(BIN)/python -m studies.classifier

rescaling: $(VENV)/.runtime  ## λ̂ of one function at rescaled parameters, write docs/rescaling.md
	$(BIN)/python -m studies.rescaling

samplers: $(VENV)/.runtime  ## which sampler, at what cost? write docs/samplers.md (25 minutes on two cores)
	$(BIN)/python -m studies.samplers

exact: $(VENV)/.runtime  ## λ̂ against λ from 1 k to 10 M parameters, write docs/exact.md (hours; resumes)
	$(BIN)/python -m studies.exact

local: $(VENV)/.runtime  ## the local coefficient against Aoyagi's λ, write docs/local.md
	$(BIN)/python -m studies.local

coverage: $(VENV)/.runtime  ## how often exact samplers' intervals hold, write docs/coverage.md
	$(BIN)/python -m studies.coverage

language: $(VENV)/.runtime  ## λ̂ and susceptibilities of a small GPT, write docs/language_models.md
	$(BIN)/python -m studies.language

clean:  ## remove .venv and caches; recorded runs stay
	rm -rf $(VENV) .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps say "installed": a second call starts at once, a changed pin installs again.
# Some systems have venv but not the pip inside it; then the system's pip puts one there.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: Python 3.11 or later is needed: make PYTHON=python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV) || { \
		$(PYTHON) -m venv --clear --without-pip $(VENV) && \
		$(PYTHON) -m pip --python $(BIN)/python install pip; } || { rm -rf $(VENV); exit 1; }

# torch comes first and alone: it is by far the largest, and the rest then settles around it.
$(VENV)/.runtime: requirements.txt | $(BIN)/python
	$(PIP) install "$$(grep '^torch==' requirements.txt)"
	$(PIP) install -r requirements.txt
	touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.runtime
	$(PIP) install -r requirements-dev.txt
	touch $@

# The peers' environment; some of them ask for a newer Python than they need.
.venv-bench/.peers: benchmarks/requirements.txt
	$(PYTHON) -m venv .venv-bench || { $(PYTHON) -m venv --clear --without-pip .venv-bench && \
		$(PYTHON) -m pip --python .venv-bench/bin/python install pip; }
	.venv-bench/bin/python -m pip install "$$(grep '^torch==' requirements.txt)"
	.venv-bench/bin/python -m pip install --ignore-requires-python -r benchmarks/requirements.txt
	touch $@
