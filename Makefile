# Every target does its own set-up: a virtual environment with the versions of constraints.txt.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
WORKERS ?= 2
SECONDS ?= 60

# Threads that wait for work must sleep: two workers with two spinning threads each take ten times as long on two cores.
test sweep: export OMP_WAIT_POLICY := passive
# Where Python is told to keep no bytecode, each of the tests' processes would compile the package anew.
test sweep: export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-lowest test-pythons test-hooks sweep lint docs bench fuzz schemas fixtures index classes packages clean

demo: $(READY)
	@$(RUN) fixtures/demo.py

test: $(READY)
	$(RUN) -m pytest -n $(WORKERS) --dist loadgroup

# Every model of every library, and the largest at full size; an ordinary `make test` does a sample.
sweep: $(READY)
	$(RUN) -m pytest -n $(WORKERS) --dist loadgroup --whole $$(cat tests/swept.txt)

# The lowest versions that pyproject.toml allows, but for torch, whose wheels are gigabytes: that is the one of $(VENV), unless
# TORCH="torch==2.10.0 torchvision==0.25.0" asks for another. By the tests of the command line and of saving.
LOWEST := $(VENV)-lowest
SITE := import sysconfig; print(sysconfig.get_path("purelib"))
test-lowest: $(READY)
	$(PYTHON) -m venv --clear $(LOWEST)
	$(RUN) -c '$(SITE)' > $$($(LOWEST)/bin/python -c '$(SITE)')/rest.pth
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check --requirement constraints-lowest.txt $(TORCH) \
		> $(LOWEST)/install.log 2>&1 || { cat $(LOWEST)/install.log; exit 1; }
	PYTHONPATH=$(CURDIR) $(LOWEST)/bin/python -m pytest -p no:cacheprovider tests/cli tests/acceptance/test_saving.py

# The commands that need no torch, by each other Python that is at hand.
PYTHONS ?= 3.12 3.13
test-pythons:
	ci/test_pythons.sh $(VENV) $(PYTHONS)

# The hooks of the last commit, installed by pre-commit itself.
test-hooks:
	PYTHON=$(PYTHON) ci/test_pre_commit.sh $(VENV)

lint: $(READY)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# Into site/; a link that leads nowhere, or a page that nobody lists, is an error.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet --strict

# Peers are installed into .venv-peers/. The second counts misses and false alarms, in some minutes.
bench: $(READY)
	$(RUN) benchmarks/run.py
	$(RUN) benchmarks/judging.py

# Of each target; FUZZ="zip npz" chooses some, and "--seeds DIR" among them adds files to begin with. At the end, pickles are read by torch too.
fuzz: $(READY)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable ".[fuzz]"
	$(RUN) fuzz/run.py --seconds $(SECONDS) $(FUZZ)
	$(RUN) -W ignore fuzz/differing.py $(SECONDS)

schemas: $(READY)
	$(RUN) -m manifest schema manifest > schemas/manifest.v1.json
	$(RUN) -m manifest schema report > schemas/report.v1.json
	$(RUN) -m manifest schema policy > schemas/policy.v1.json
	$(RUN) -m manifest schema trust > schemas/trust.v1.json
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
	rm -rf $(VENV) $(VENV)-* demo site

# A failed install leaves no mark, so that the next run tries again. All that pip says is in a log: with --quiet it does not
# name what conflicts.
$(READY): pyproject.toml constraints.txt
	@echo "Installing into $(VENV): about three minutes, 5 GB."
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --disable-pip-version-check --constraint constraints.txt --editable ".[dev]" \
		> $(VENV)/install.log 2>&1 || { tail -n 30 $(VENV)/install.log >&2; exit 1; }
	@touch $(READY)
