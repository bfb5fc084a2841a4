# make sweep | test | check | report | ui | lab | bench | science     Every target first makes .venv from requirements.lock.
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.installed
SWEEP ?= stm.threshold=1.5,2.5,4

.PHONY: sweep test check format report ui lab bench science clean
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

science: $(READY) ## experiments/SCIENCE.md: every claim over five seeds; goes on where it stopped
	$(BIN)/python train.py -m hydra.sweeper.arms=experiments/science/design.yaml seed=1,2,3,4,5 sweep.workers=2 \
		$$(test -f outputs/sweeps/science/sweep.json && echo sweep.resume=outputs/sweeps/science || echo hydra.sweep.dir=outputs/sweeps/science)
	$(BIN)/python experiments/write_results.py experiments/science/design.yaml

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
