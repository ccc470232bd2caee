# The commands of this project; `make help` lists them. Every one of them makes .venv first if it is not there.
PROFILE ?= mini
PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
USER_ID ?= $(shell id -u)
PUBLISH   ?= mini-publish
PUBLISHED ?= figures/mini

# A profile's file by its whole path, blanks in it or not; the name of one in params/ stays a name.
EMPTY :=
BLANK := $(EMPTY) $(EMPTY)
IS_FILE = $(wildcard $(subst $(BLANK),\ ,$(PROFILE)))
WHOLE = $(if $(IS_FILE),$(if $(filter /%,$(firstword $(PROFILE))),,$(CURDIR)/))$(PROFILE)

# What JupyterLab writes of a kernel's Python into a notebook that is saved by hand.
SAVED := codemirror_mode file_extension mimetype nbconvert_exporter pygments_lexer version
STRIP := --keep-id --extra-keys "$(SAVED:%=metadata.language_info.%)"

CHOSEN = $(if $(ONLY),--only $(ONLY)) $(if $(FROM),--from $(FROM)) $(if $(SYSTEMS),--systems "$(SYSTEMS)")

export PIP_DISABLE_PIP_VERSION_CHECK := 1
.DEFAULT_GOAL := help
.PHONY: help doctor reproduce dry-run lab figures publish test test-slow coverage bench check format licences clean setup \
  miniature-base

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'
	@echo; echo "  PROFILE=smoke|mini|one-gpu|llama2-7b|llama2-13b|llama3-8b|mistral-7b|qalign-7b|checkpoints chooses what is run (default: mini)."
	@echo "  ONLY=\"04 05\" runs only these notebooks, FROM=03 this one and those after it, SYSTEMS=\"QAlign, MonoReason\" only these systems."

setup: $(VENV)/.ready  ## make .venv with the exact versions of requirements.txt

# The filter, see .gitattributes: a notebook that was run by hand is no change to git.
$(VENV)/.ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "making $(VENV): about 0.5 GB to download, 2 GB on disk, some minutes; on Linux PyPI's torch brings gigabytes of CUDA"
	@echo "besides, which a machine without a GPU can leave out: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make setup"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --requirement requirements.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@git config filter.nbstripout.clean '"$(CURDIR)/$(BIN)/nbstripout" $(STRIP)' 2>/dev/null || true
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	@touch $@

# Works before anything is installed, and then says so.
doctor:  ## look whether this machine is ready, and how long it will take: make doctor [PROFILE=llama2-7b]
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m qalign_core.doctor "$(PROFILE)"

reproduce: $(VENV)/.ready  ## run the whole paper: make reproduce [PROFILE=llama2-7b] [ONLY="04 05"] [FROM=03]
	@$(BIN)/python -m qalign_core.reproduce "$(PROFILE)" $(CHOSEN)

dry-run: $(VENV)/.ready  ## say what is done and what is to do, run nothing
	@$(BIN)/python -m qalign_core.reproduce "$(PROFILE)" --dry-run $(CHOSEN)

# The environment's own kernel comes first, whatever kernels the user has; the settings show Markdown as a page.
lab: $(VENV)/.ready  ## open the notebooks in JupyterLab, on this machine only: make lab [PROFILE=smoke] [LAB="--no-browser"]
	@if [ "$(USER_ID)" = 0 ] && [ -z "$(findstring --allow-root,$(LAB))" ]; then \
	  echo 'JupyterLab does not run as root unless it is told to: make lab LAB="--allow-root$(if $(LAB), $(LAB))"'; exit 1; fi
	@$(BIN)/python -m qalign_core.reproduce "$(PROFILE)" --start-page
	@JUPYTER_PREFER_ENV_PATH=1 JUPYTER_CONFIG_PATH="$(CURDIR)/params/jupyterlab" QALIGN_PROFILE="$(WHOLE)" \
	  $(BIN)/python -m jupyterlab --ServerApp.ip=127.0.0.1 --ServerApp.root_dir="$(CURDIR)" \
	  --LabApp.app_settings_dir="$(CURDIR)/params/jupyterlab" \
	  --LabApp.default_url="/lab/workspaces/qalign/tree/runs/START.md" $(LAB)

figures: $(VENV)/.ready  ## draw figures/mini again from the results saved in it; with PROFILE=..., that run's figures
ifeq ($(origin PROFILE),file)
	@$(BIN)/python -m qalign_core.show.report figures/mini/results figures/mini
else
	@run="runs/$$($(BIN)/python -c 'import sys; sys.tracebacklimit = 0; from qalign_core import params; \
	  print(params.load(sys.argv[1]).run.profile)' "$(PROFILE)")" && \
	  $(BIN)/python -m qalign_core.show.report "$$run/results" "$$run/figures"
endif

publish: $(VENV)/.ready  ## make figures/mini anew: three seeds, all test questions, controls (hours; resumable)
	@$(BIN)/python -m qalign_core.reproduce $(PUBLISH)
	@rm -rf $(PUBLISHED).part && mkdir -p $(PUBLISHED).part
	@cp -r runs/$(notdir $(basename $(PUBLISH)))/results $(PUBLISHED).part/results
	@$(BIN)/python -m qalign_core.show.report $(PUBLISHED).part/results $(PUBLISHED).part
	@rm -rf $(PUBLISHED) && mv $(PUBLISHED).part $(PUBLISHED)

# Two files at a time: most of a test's time is one process that starts another.
test: $(VENV)/.ready-dev  ## run the tests
	@$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(VENV)/.ready-dev  ## run the tests that take minutes, too
	@$(BIN)/python -m pytest -m "slow or not slow"

# Counting slows Python down: the tests of speed (named ..._in_seconds) are left out.
coverage: $(VENV)/.ready-dev  ## what the tests run of qalign_core, in every process they start: make coverage [TESTS=tests/test_train.py]
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -k "not in_seconds" $(TESTS); code=$$?; \
	  $(BIN)/coverage combine --quiet && $(BIN)/coverage report; exit $$code

bench: $(VENV)/.ready  ## measure speed against the authors' loops, side by side (needs a finished run of mini)
	@$(BIN)/python bench/generation.py --model runs/mini/models/seed-1/base/questions-x-en/metamathqa/model \
	  --prompts runs/mini/data/prompts/alpaca/mgsm/*.jsonl
	@$(BIN)/python bench/training.py

check: $(VENV)/.ready-dev  ## lint, formatting, types, notebooks without outputs, consistent pins, the package's size; changes nothing
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python -m mypy qalign_core
	@$(BIN)/nbstripout $(STRIP) --verify notebooks/*.ipynb
	@$(BIN)/python -m pip check
	@$(BIN)/python tests/test_layout.py

format: $(VENV)/.ready-dev  ## format code and notebooks, take the outputs out of notebooks
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .
	@$(BIN)/nbstripout $(STRIP) notebooks/*.ipynb

# A licence that is none of these families stops it: look what it asks for before it is added here.
licences: $(VENV)/.ready-dev  ## list the licences of the packages anew, in THIRD_PARTY.md
	@sed '/^|/,$$d' THIRD_PARTY.md > THIRD_PARTY.md.part
	@$(BIN)/pip-licenses --packages $$(sed -n 's/^\([A-Za-z][^=]*\)==.*/\1/p' requirements.txt) --with-system --format=markdown --from=mixed \
	  --partial-match --allow-only="MIT;BSD;Apache;ISC;PSF;Python Software Foundation;MPL;Mozilla" --fail-on="GPL" >> THIRD_PARTY.md.part
	@mv THIRD_PARTY.md.part THIRD_PARTY.md

miniature-base: $(VENV)/.ready  ## train the miniature's three base models anew (hours), replacing those shipped
	@$(BIN)/python tools/miniature_base.py

clean:  ## delete .venv and caches; runs/ stays (delete runs/PROFILE yourself to begin again)
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
