# Every target does its own set-up: a virtual environment with the versions of constraints.txt.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
WORKERS ?= 2
SECONDS ?= 60

# Threads that wait for work must sleep: two workers with two spinning threads each take ten times as long on two cores.
test sweep: export OMP_WAIT_POLICY := passive

.PHONY: demo test sweep lint bench fuzz schemas fixtures index classes packages clean

demo: $(READY)
	$(RUN) fixtures/demo.py

test: $(READY)
	$(RUN) -m pytest -n $(WORKERS) --dist loadgroup

# Every model of every library, and the largest at full size; an ordinary `make test` does a sample.
sweep: $(READY)
	$(RUN) -m pytest -n $(WORKERS) --dist loadgroup --whole $$(cat tests/swept.txt)

lint: $(READY)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: $(READY)
	$(RUN) benchmarks/run.py

# Of each target; FUZZ="zip npz" chooses some, and "--seeds DIR" among them adds files to begin with. At the end, pickles are read by torch too.
fuzz: $(READY)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable ".[fuzz]"
	$(RUN) fuzz/run.py --seconds $(SECONDS) $(FUZZ)
	$(RUN) -W ignore fuzz/differing.py $(SECONDS)

schemas: $(READY)
	$(RUN) -m manifest schema manifest > schemas/manifest.v1.json
	$(RUN) -m manifest schema report > schemas/report.v1.json
	$(RUN) -m manifest schema policy > schemas/policy.v1.json
	cp manifest/policies/*.yaml policies/

fixtures: $(READY)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable ".[fixtures]"
	$(RUN) fixtures/photos.py
	$(RUN) fixtures/digits_clip/train.py

# Of every model of the libraries that are installed, in some minutes; after a new version of one of them.
index: $(READY)
	$(RUN) fixtures/index.py

# Which classes of the libraries run nobody's code when they are unpickled; after a new version of one of them.
classes: $(READY)
	$(RUN) fixtures/harmless_classes.py

# Needs the network once; without these packages, the tests that read them are skipped.
packages: $(READY)
	$(RUN) fixtures/packages.py

clean:
	rm -rf $(VENV) demo

# pip warns on stderr; a failed install leaves no mark, so that the next run tries again.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $(READY)
