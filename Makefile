# The front door. `make` alone lists the targets. Everything sets itself up in .venv first.

PYTHON ?= python3
DATASET ?= auto
DEVICE ?= auto
VENV_PYTHON := .venv/bin/python
MNIST := $(VENV_PYTHON) -m mnist
# tox installs the same build of PyTorch as .venv holds.
TOX := env $$(cat .venv/tox.env) $(VENV_PYTHON) -m tox

# make ignores a misspelt variable. These are the variables that mean something here; the environment may hold others.
VARIABLES := PYTHON RECIPE EPOCHS SEED DATASET DEVICE MODEL BASELINE INIT RESUME TAG CONFIRM CI ARGS MNIST_MIRROR
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
UNKNOWN := $(firstword $(filter-out $(VARIABLES) UV_% PIP_% OMP_% HYPOTHESIS_% -% MAKE% SHELL,$(GIVEN)))
ifneq ($(UNKNOWN),)
NEAREST := $(shell "$(PYTHON)" -c "import difflib as d, sys; print(*d.get_close_matches(*sys.argv[1:2], sys.argv[2:], 1, 0))" \
	"$$(echo '$(UNKNOWN)' | tr a-z A-Z)" $(VARIABLES))
$(error there is no variable $(UNKNOWN) here; did you mean $(NEAREST)? (make help lists all))
endif

# The value of a switch: nothing if it is off, as in RESUME=0.
NO := 0 n no N No NO f false F False FALSE off Off OFF
switch = $(filter-out $(NO),$(strip $(1)))

.DEFAULT_GOAL := help
.PHONY: help data train gate verify predict export demo augment test bench lint format tox lock release-check clean distclean venv

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "Variables: RECIPE=standard|baseline|fast|accurate|... EPOCHS=N SEED=N DATASET=auto|mnist|subset|...|FOLDER"
	@echo "           DEVICE=auto|cpu|cuda|mps   BASELINE=models/....pth: the model that a new one must not be worse than"
	@echo "           TAG=vX.Y.Z: the release that release-check builds, which must be this version"
	@echo "           RESUME=1: go on where the last run was cut off;  INIT=models/....pth: start from that model"
	@echo "           ARGS='...' is handed on as it is;  MNIST_MIRROR=URL or folder: where to get the data"

data: venv ## get MNIST and verify it
	@$(MNIST) data --dataset "$(DATASET)" $(ARGS)

train: venv ## train a model, save it under models/, and judge it (RESUME=1: go on where the last was cut off)
	@$(MNIST) train $(if $(call switch,$(RESUME)),--resume) $(if $(INIT),--init "$(INIT)") $(if $(RECIPE),--recipe "$(RECIPE)") --dataset "$(DATASET)" \
		--device "$(DEVICE)" $(if $(EPOCHS),--epochs "$(EPOCHS)") $(if $(SEED),--seed "$(SEED)") $(if $(BASELINE),--baseline "$(BASELINE)") $(ARGS)

gate: venv ## judge the newest model (or MODEL=path), into reports/; fails if it must not ship
	@$(MNIST) gate --device "$(DEVICE)" $(if $(BASELINE),--baseline "$(BASELINE)") $(if $(MODEL),"$(MODEL)") $(ARGS)

verify: venv ## check that models, checkpoints and data are as they were written (ARGS=... names others)
	@$(MNIST) verify $(ARGS)

predict: venv ## say what digit is on a picture: make predict ARGS="photo.jpg scans/"
	@$(MNIST) predict $(if $(MODEL),--model "$(MODEL)") $(ARGS)

export: venv ## write the newest model (or MODEL=path) as an ONNX file, checked on every test image
	@$(MNIST) export $(if $(MODEL),"$(MODEL)") $(ARGS)

demo: venv ## write site/index.html, a page to draw digits on, with the newest model (or MODEL=path) in it
	@$(MNIST) demo $(if $(MODEL),"$(MODEL)") $(ARGS)

augment: venv ## draw figures/augmentation_samples.png: what training sees
	@$(MNIST) augment $(if $(RECIPE),--recipe "$(RECIPE)") --dataset "$(DATASET)" $(if $(SEED),--seed "$(SEED)") $(ARGS)

# In CI all of it; elsewhere all but what takes longest, so that one waits less than two minutes.
test: venv ## run the test suite, without network and without the data (CI=true: the slow tests, too; ARGS=... for a part of it)
	@PYTHONWARNDEFAULTENCODING=1 $(VENV_PYTHON) -m pytest $(or $(ARGS),--cov --numprocesses auto --maxprocesses 4 --dist worksteal $(if $(call switch,$(CI)),,-m "not slow"))

bench: venv ## time it against the usual script, into docs/benchmarks.md (ARGS=--quick: a minute, prints alone)
	@$(MNIST) data --dataset mnist >/dev/null
	@$(VENV_PYTHON) scripts/benchmark.py $(ARGS)

lint: venv ## check style, types and the workflow files
	@$(TOX) run -e lint $(ARGS)

format: venv ## put the code into the house style
	@$(VENV_PYTHON) -m ruff format
	@$(VENV_PYTHON) -m ruff check --fix
	@$(TOX) exec -e lint -- deno fmt

tox: venv ## run the suite on every supported Python that this machine has, and lint
	@$(TOX) run $(ARGS)

lock: venv ## renew the known-good versions in constraints.txt
	@$(VENV_PYTHON) -m uv pip compile --quiet --no-annotate --upgrade --universal --python-version 3.10 --all-extras \
		--custom-compile-command "make lock" --output-file constraints.txt setup.cfg

release-check: venv ## train a model and build every asset of its release in release/, if the gate lets it ship
	@$(VENV_PYTHON) scripts/release.py build --dataset "$(DATASET)" $(if $(BASELINE),--baseline "$(BASELINE)") $(if $(TAG),--tag "$(TAG)") $(ARGS)

GENERATED = $(wildcard build dist .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache *.egg-info \
	*/__pycache__ figures/augmentation_samples.png site/index.html)
EVERYTHING = $(GENERATED) $(wildcard models reports checkpoints data site release .release-* baseline .venv .venv.lock .tox)

clean: ## remove what was generated; models, data and .venv stay
	@rm -rf $(GENERATED)

distclean: ## say what else there is, models and data included; CONFIRM=yes removes it
ifeq ($(CONFIRM) $(origin CONFIRM),yes command line)
	rm -rf $(EVERYTHING)
else
	@echo "make distclean CONFIRM=yes will remove, with everything in it: $(or $(strip $(EVERYTHING)),nothing)"
endif

venv:
	@"$(PYTHON)" scripts/bootstrap.py
