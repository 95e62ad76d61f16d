# Everything a newcomer and CI need. `make demo` and `make test` set up what they use.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test faults cases fuzz lint setup bench bench-pipeline bench-data-plane bench-load bench-mining train-demo-model clean

demo: setup
	$(BIN)/python -m jobs.demo

# two workers, as much of the time goes into waiting; tests/conftest.py says which tests each of them gets
test: setup
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder

# everything that can go wrong with a run, one after the other; `make test` runs the quick part of it
faults: setup
	$(BIN)/python -m pytest tests/faults tests/ray/test_train.py tests/ray/test_schedules.py tests/ray/test_places.py -m "matrix or not matrix" -rP --show-capture=stdout

# whole jobs over small inputs that once failed without a word, where their folder is beside the project
cases: setup
	$(BIN)/python -m pytest tests/cases -m cases -rs

fuzz: setup
	$(BIN)/python -m pytest tests -k fuzz --hypothesis-profile=fuzz --timeout=3600

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(VENV)/.installed

# constraints.txt pins the versions that CI has tested: for development and the demo; clusters choose the torch of their GPUs
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# side by side with TART's loop, sentence-transformers, the reference and the matrix products; three quarters of an hour on two cores
bench: setup
	$(BIN)/python -m benchmarks.scorer --geometry small
	$(BIN)/python -m benchmarks.scorer --geometry base --pairs 100

bench-pipeline: setup
	$(BIN)/python -m benchmarks.pipeline

bench-data-plane: setup
	$(BIN)/python -m benchmarks.data_plane

bench-load: setup
	$(BIN)/python -m benchmarks.load_checkpoint

bench-mining: setup
	$(BIN)/python -m benchmarks.mining

# training alone takes over an hour on two cores; goes on where it stopped; needs the Python and Debian package managers
train-demo-model: setup
	$(BIN)/python -m recipes.demo_model all

clean:
	rm -rf demo-output build .mypy_cache .pytest_cache .ruff_cache
