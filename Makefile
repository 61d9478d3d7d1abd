# Run `make` without a target to list the targets. Each target first sets up .venv if necessary.

PYTHON ?= python3
DATASET ?= auto
DEVICE ?= auto
VENV_PYTHON := .venv/bin/python
MNIST := $(VENV_PYTHON) -m mnist
# Let tox install the same build of PyTorch as .venv.
TOX := env $$(cat .venv/tox.env) $(VENV_PYTHON) -m tox

# make ignores unknown variables, so reject them on the command line, where they are probably typing errors. The
# environment may contain any variables.
VARIABLES := PYTHON RECIPE EPOCHS SEED DATASET DEVICE MODEL BASE BASELINE INIT RESUME TAG CONFIRM CI ARGS MNIST_MIRROR
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
UNKNOWN := $(firstword $(filter-out $(VARIABLES) UV_% PIP_% OMP_% HYPOTHESIS_% -% MAKE% SHELL,$(GIVEN)))
ifneq ($(UNKNOWN),)
NEAREST := $(shell "$(PYTHON)" -c "import difflib as d, sys; print(*d.get_close_matches(*sys.argv[1:2], sys.argv[2:], 1, 0))" \
	"$$(echo '$(UNKNOWN)' | tr a-z A-Z)" $(VARIABLES))
$(error unknown variable $(UNKNOWN): did you mean $(NEAREST)? (make help lists all variables))
endif

# BASE is easily confused with BASELINE. The gate would then run without a baseline.
ifneq ($(and $(filter BASE,$(GIVEN)),$(filter-out bench,$(MAKECMDGOALS))),)
$(error BASE is the commit for make bench to compare with: did you mean BASELINE?)
endif

# The value of a switch: empty if the switch is off, as with RESUME=0.
NO := 0 n no N No NO f false F False FALSE off Off OFF
switch = $(filter-out $(NO),$(strip $(1)))

.DEFAULT_GOAL := help
.PHONY: help data train gate verify predict export demo augment test pictures mutants bench lint format tox lock release-check clean distclean venv

help: ## list the targets and variables
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "Variables: RECIPE=standard|baseline|fast|accurate|... EPOCHS=N SEED=N DATASET=auto|mnist|subset|...|FOLDER"
	@echo "           DEVICE=auto|cpu|cuda|mps   BASELINE=models/....pth: compare with this model; block if the new one is worse"
	@echo "           BASE=COMMIT: let make bench compare the working tree with this commit"
	@echo "           TAG=vX.Y.Z: the tag for release-check, which must match the version"
	@echo "           RESUME=1: continue the last interrupted run;  INIT=models/....pth: start from the weights of this model"
	@echo "           ARGS='...': pass more options to the program;  MNIST_MIRROR=URL or folder: try this source of MNIST first"

data: venv ## download MNIST and verify its checksums
	@$(MNIST) data --dataset "$(DATASET)" $(ARGS)

train: venv ## train a model, save it in models/, and run the gate (RESUME=1: continue the last interrupted run)
	@$(MNIST) train $(if $(call switch,$(RESUME)),--resume) $(if $(INIT),--init "$(INIT)") $(if $(RECIPE),--recipe "$(RECIPE)") --dataset "$(DATASET)" \
		--device "$(DEVICE)" $(if $(EPOCHS),--epochs "$(EPOCHS)") $(if $(SEED),--seed "$(SEED)") $(if $(BASELINE),--baseline "$(BASELINE)") $(ARGS)

gate: venv ## run the gate on the newest model (or MODEL=path) and write reports/; fails if the model is blocked
	@$(MNIST) gate --device "$(DEVICE)" $(if $(BASELINE),--baseline "$(BASELINE)") $(if $(MODEL),"$(MODEL)") $(ARGS)

verify: venv ## check models, checkpoints and data against their checksums (ARGS=...: check other files)
	@$(MNIST) verify $(ARGS)

predict: venv ## recognize the digit in pictures: make predict ARGS="photo.jpg scans/"
	@$(MNIST) predict $(if $(MODEL),--model "$(MODEL)") $(ARGS)

export: venv ## export the newest model (or MODEL=path) to ONNX and check it on every test image
	@$(MNIST) export $(if $(MODEL),"$(MODEL)") $(ARGS)

demo: venv ## write site/index.html, a page that recognizes drawn digits with the newest model (or MODEL=path)
	@$(MNIST) demo $(if $(MODEL),"$(MODEL)") $(ARGS)

augment: venv ## write figures/augmentation_samples.png, which shows augmented training images
	@$(MNIST) augment $(if $(RECIPE),--recipe "$(RECIPE)") --dataset "$(DATASET)" $(if $(SEED),--seed "$(SEED)") $(ARGS)

# CI runs all tests and measures their coverage. Elsewhere, tests that take about a second or more, open a browser or wait
# for other processes are left out.
test: venv ## run the tests, without network or data (CI=true: also the slow ones, with coverage; ARGS=...: options of pytest)
	@PYTHONWARNDEFAULTENCODING=1 $(VENV_PYTHON) -m pytest $(or $(ARGS),--numprocesses auto --maxprocesses 4 --dist worksteal $(if $(call switch,$(CI)),--cov,-m "not slow"))

pictures: venv ## draw the pictures in docs/ that are out of date (ARGS="NAME.png ...": these)
	@$(MNIST) data --dataset mnist >/dev/null
	@$(VENV_PYTHON) scripts/document_pictures.py $(ARGS)

mutants: venv ## make random changes to the code of the gate and of training, and check that a test fails (half an hour; ARGS=...: --count, --seed)
	@$(VENV_PYTHON) scripts/mutants.py $(ARGS)

bench: venv ## measure speed and memory (BASE=COMMIT: compare with it; ARGS=--quick; ARGS=--accuracy: also update docs/benchmarks.md)
	@$(MNIST) data --dataset mnist >/dev/null
	@$(VENV_PYTHON) scripts/benchmark.py $(if $(BASE),--base "$(BASE)") $(ARGS)

lint: venv ## check style, types, import layers and the workflow files
	@$(TOX) run -e lint $(ARGS)

format: venv ## format the code and fix what ruff can fix
	@$(VENV_PYTHON) -m ruff format
	@$(VENV_PYTHON) -m ruff check --fix
	@$(TOX) exec -e lint -- deno fmt

tox: venv ## run the tests on every installed Python that is supported, and lint
	@$(TOX) run $(ARGS)

lock: venv ## update the pinned versions in constraints.txt
	@$(VENV_PYTHON) -m uv pip compile --quiet --no-annotate --upgrade --universal --python-version 3.10 --all-extras \
		--custom-compile-command "make lock" --output-file constraints.txt setup.cfg

release-check: venv ## train a model and, if it passes the gate, build every asset of a release in release/
	@$(VENV_PYTHON) scripts/release.py build --dataset "$(DATASET)" $(if $(BASELINE),--baseline "$(BASELINE)") $(if $(TAG),--tag "$(TAG)") $(ARGS)

GENERATED = $(wildcard build dist .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache *.egg-info \
	.import_linter_cache */__pycache__ */*/__pycache__ figures/augmentation_samples.png site/index.html)
EVERYTHING = $(GENERATED) $(wildcard models reports checkpoints data site release .release-* baseline .venv .venv.lock .tox)

clean: ## remove caches, builds and figures; keep models, reports, checkpoints, data, releases, .venv and .tox
	@rm -rf $(GENERATED)

distclean: ## list all generated files, including models and data; CONFIRM=yes removes them
ifeq ($(CONFIRM) $(origin CONFIRM),yes command line)
	rm -rf $(EVERYTHING)
else
	@echo "make distclean CONFIRM=yes will remove these with all their contents: $(or $(strip $(EVERYTHING)),nothing)"
endif

venv:
	@"$(PYTHON)" scripts/bootstrap.py
