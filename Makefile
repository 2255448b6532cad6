# make run    set-up, then the main job: params.yaml's recipe from images to exported model
# make test   set-up, then the tests
# make flow   set-up, then the same as one Prefect flow, no server needed; options in ARGS, as ARGS=--help
# make up     set-up, then server, schedule and workers on this machine until Ctrl-C; make up PORT=4210
# make bench  set-up, then every figure of benchmarks/, most of an hour; make bench QUICK=1 takes minutes; ARGS=--readme
# make setup  only the set-up: .venv with the pinned packages
PYTHON ?= python3
HOST := 127.0.0.1
PORT := 4200
SERVERS = $(shell grep -lE 'prefect_server|local_prefect|prefect_test_harness|SubprocessASGIServer' tests/flows/test_*.py)
ALONE = $(SERVERS) tests/core/test_page_in_browser.py
VENV := .venv
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: run flow up test bench setup lint clean
.DEFAULT_GOAL := run

run: setup
	@# What a kill left of DVC's own files stops DVC before a stage of ours could mend it.
	@python -m flows.mending || true
	dvc repro || { code=$$?; python -m flows.mending --thoroughly && exec dvc repro; exit $$code; }

flow: setup
	python -m flows.pipeline $(ARGS)

# A HOST other machines can reach needs a password: flows/server_settings.py says which variables to set.
up: setup
	@exec python -m flows.up --host $(HOST) --port $(PORT) $(ARGS)

test: setup
	ruff check .
	mypy
	@# Servers and workers wait for one another, and a page is held to its promise of answering at once: these are
	@# tested alone, the rest by two at once.
	python -m pytest -n 2 --dist loadfile $(ALONE:%=--ignore %); first=$$?; python -m pytest $(ALONE) && exit $$first

bench: setup
	python -m benchmarks $(if $(QUICK),--quick) $(ARGS)

lint: setup
	ruff check . && mypy

setup: $(READY)

# Pip byte-compiles what it installs: uncompiled, TensorFlow takes twice as long to import.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "graft needs Python 3.11, 3.12 or 3.13; $$($(PYTHON) --version) was found. Try: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --compile -c constraints.txt pip setuptools wheel
	$(VENV)/bin/python -m pip install --quiet --compile -c constraints.txt --no-build-isolation -e '.[dev]'
	@# What is pinned is what stages depend on: after a change of constraints.txt those that use it are stale.
	@$(VENV)/bin/graft versions --pinned
	@touch $@

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache
