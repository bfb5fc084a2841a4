# make sweep | test | check | report | ui | lab | bench | science | tables     Every target first makes .venv from requirements.lock.
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.installed
SWEEP ?= stm.threshold=1.5,2.5,4
SEEDS ?= 1,2,3,4,5
comma := ,
EACH_SEED = $(subst $(comma), ,$(SEEDS))

.PHONY: sweep test check format report ui lab bench science tables clean
.DEFAULT_GOAL := sweep

$(READY): requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed. Remedy: install Python 3.11 with venv, or run make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

sweep: $(READY) ## four arms and the base model, a table, plots, an MLflow store
	$(BIN)/python train.py -m $(SWEEP)

test: $(READY) ## the whole test suite, offline
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2

check: $(READY) ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

report: $(READY) ## table and page of the latest sweep
	$(BIN)/tokensieve report

ui: $(READY) ## MLflow's own interface on the store
	$(BIN)/mlflow ui --backend-store-uri sqlite:///outputs/mlflow.db

lab: $(READY) ## make the packaged base model again (about 20 minutes)
	$(BIN)/python -m tokensieve.lab.build

bench: $(READY) ## speed beside what one would run instead; BENCH="--only NAME", "--quick", "--fresh", "--table"
	$(BIN)/python experiments/speed/run.py $(BENCH)

# Begins a sweep in outputs/sweeps/NAME, or goes on with it.
in_sweep = $$(test -f outputs/sweeps/$(1)/sweep.json && echo sweep.resume=outputs/sweeps/$(1) || echo hydra.sweep.dir=outputs/sweeps/$(1))

# The references of DPF and rho; all arms; the threshold chosen on validation items, whose fits are those of the arms.
science: $(READY) ## experiments/SCIENCE.md: every claim over five seeds; goes on where it stopped
	for seed in $(EACH_SEED); do \
		$(BIN)/python train.py stm=none seed=$$seed hydra.run.dir=outputs/science_tuned/$$seed || exit 1; done
	$(BIN)/python train.py -m hydra.sweeper.arms=experiments/science/design.yaml seed=$(SEEDS) sweep.workers=2 \
		$(call in_sweep,science)
	$(BIN)/python train.py -m search=grid search.n_trials=$$((6 * $(words $(EACH_SEED)))) \
		stm.threshold=1000,25,10,4,2.5,1.5 seed=$(SEEDS) sweep.workers=2 $(call in_sweep,science_choice)
	$(BIN)/python experiments/write_results.py experiments/science/design.yaml

tables: $(READY) ## experiments/*/lab.md: every published table in the lab; finds what science has run
	failed=0; for table in $(patsubst experiments/%/experiment.yaml,%,$(wildcard experiments/*/experiment.yaml)); do \
		$(BIN)/tokensieve reproduce $$table sweep.workers=2 --record || failed=1; done; exit $$failed

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
