# The three commands a newcomer needs: make demo, make test, make run. `make` alone lists all.
# The first Python that is recent enough. A version manager's python3 may refuse to run: it may lack the version that
# .python-version names.
PYTHON ?= $(shell for p in python3 python3.13 python3.14 python3.12 python3.11 /usr/bin/python3; do \
	$$p -c '$(RECENT)' 2>/dev/null && echo $$p && break; done || true)
ARGS =
BODIES = 100000
MINUTES = 3
DEBIAN = /tmp/debian
HISTORIES = 10000
SEED := $(shell date +%s)

# When this is set, every process compiles the same files again.
export PYTHONDONTWRITEBYTECODE =

BIN = .venv/bin
TESTS = $(BIN)/python -m pytest --numprocesses=4 --dist=loadfile --no-loadscope-reorder
# demo and run need what a server needs; everything else needs the tools of development too.
STAMP = .venv/installed
DEV_STAMP = .venv/installed-dev
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check
RECENT = import sys; sys.exit(sys.version_info < (3, 11))
BRANCHES = import json, sys; t = json.load(sys.stdin)["totals"]; p = t["percent_branches_covered"]; \
	print(f"Branches covered: {p:.1f} %; at least 95 % are needed."); sys.exit(p < 95)

.PHONY: help setup demo test coverage browser chaos fuzz mutations proxies image lambda run format screenshot

help:
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1	\2/p' Makefile | expand -t 12

setup: $(DEV_STAMP) ## Makes .venv and installs everything into it; again only when requirements change. PYTHON=python3.13 chooses the Python.

demo: $(STAMP) ## Starts the relay between a simulated Khoros, Zendesk, Slack and webhook receiver on this machine, without any account. ARGS=--once: three posts, then ends.
	$(BIN)/python -m sandbox $(ARGS)

test: $(DEV_STAMP) ## Checks format, style, types and imports, and runs every test.
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	$(TESTS)

coverage: $(DEV_STAMP) ## Runs every test and measures which branches they reach: 95 % at least. Takes twice as long as the tests alone.
	$(TESTS) --cov --cov-report=term
	@$(BIN)/python -m coverage json --quiet --fail-under=0 -o - | $(BIN)/python -c '$(BRANCHES)'

browser: $(DEV_STAMP) ## Tests the pages in this machine's Chromium or Chrome, with axe-core (.ci/run installs both).
	BROWSER_TESTS=only $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile

chaos: $(DEV_STAMP) ## Proves that nothing is lost or doubled: 10,000 simulated histories, then real processes that are killed. MINUTES=3 HISTORIES=10000 SEED=1
	@echo "SEED=$(SEED)"
	HISTORIES=$(HISTORIES) $(BIN)/python -m pytest --quiet --numprocesses=2 --hypothesis-seed=$(SEED) tests/destinations/test_simulation.py
	$(BIN)/python proofs/chaos.py --minutes=$(MINUTES) --seed=$(SEED)

mutations: $(DEV_STAMP) ## Breaks the relay on purpose, one guard at a time: a proof must go red. ARGS=lease: only those with this word.
	$(BIN)/python proofs/mutations.py $(ARGS)

fuzz: $(DEV_STAMP) ## Sends a real relay 100,000 bodies, raw nonsense and unfinished requests, and times the token check. BODIES=2000 SEED=7
	$(BIN)/python -m proofs.fuzz --bodies $(BODIES) --seed $(SEED)
	$(BIN)/python -m proofs.token_timing --seed $(SEED)

proxies: $(STAMP) ## Runs the relay behind nginx and Caddy with the files in hosting/, and two relays behind each (apt-get install nginx caddy).
	$(BIN)/python proofs/proxies.py
	$(BIN)/python proofs/two_nodes.py

image: $(STAMP) ## Builds and runs the Docker image by hand, as root and without Docker. DEBIAN=/tmp/debian (made with debootstrap).
	$(BIN)/python proofs/image.py $(DEBIAN)

lambda: $(DEV_STAMP) ## Freezes and kills the two functions of AWS Lambda at random moments, and lints template.yaml. SEED=1
	$(BIN)/python proofs/lambda_stream.py --seed $(SEED)
	$(BIN)/python proofs/lambda_template.py

run: export ON_LAPTOP = 1
run: $(STAMP) ## Runs the relay on this machine, with the settings in .env (see .env.example). PORT=9000 chooses another port.
	$(BIN)/gunicorn 'app:create_app()'

format: $(DEV_STAMP) ## Formats the code and repairs what ruff can repair by itself.
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .

screenshot: $(DEV_STAMP) ## Takes the README's picture of the demo again, with this machine's Chromium or Chrome.
	$(BIN)/python -m sandbox.screenshot

# Each stamp is newer than what it stands for, so that requirements are installed again only when they have changed.
$(STAMP): requirements.txt
	@test -x $(BIN)/pip || $(PYTHON) -c '$(RECENT)' || \
		{ echo "Python 3.11 or later is needed and was not found. Name yours: make setup PYTHON=/path/to/python3.13" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv || \
		{ echo "'$(PYTHON) -m venv .venv' failed. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -c '$(RECENT)' || \
		{ echo ".venv holds a Python older than 3.11. Remove it and run make again: rm -r .venv" >&2; exit 1; }
	@echo "Installing what the relay runs on into .venv: about 60 MB, half a minute, only this once ..."
	@$(INSTALL) -r requirements.txt >.venv/install.log 2>&1 || { cat .venv/install.log >&2; exit 1; }
	@touch $(STAMP)

$(DEV_STAMP): $(STAMP) requirements-dev.txt
	@echo "Installing the tools for tests and checks into .venv: about 400 MB, one to two minutes, only this once ..."
	@$(INSTALL) -r requirements-dev.txt >.venv/install.log 2>&1 || { cat .venv/install.log >&2; exit 1; }
	@touch $(DEV_STAMP)
