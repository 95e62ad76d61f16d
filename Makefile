# The commands for newcomers and CI. `make demo` and `make test` first set up what they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ECOSYSTEM := .venv-ecosystem

.PHONY: demo test ecosystem faults cases fuzz lint setup bench bench-gpu bench-pipeline bench-data-plane bench-load bench-mining bench-cross-encoders train-demo-model clean

demo: setup
	$(BIN)/python -m jobs.demo

# Two workers, because the tests spend much of their time waiting; tests/conftest.py assigns the tests to them.
test: setup
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder

# The adapters with the libraries that they are for. These are installed on top of $(VENV), in an environment beside it, and
# do not burden `make test`.
ecosystem: $(ECOSYSTEM)/.installed
	$(ECOSYSTEM)/bin/python -m pytest tests/adapters

# Everything that can go wrong with a run, one case after the other; `make test` runs the quick part.
faults: setup
	$(BIN)/python -m pytest tests/faults tests/ray/test_train.py tests/ray/test_schedules.py tests/ray/test_places.py tests/ray/test_cross_encoders.py tests/benchmarks -m "matrix or not matrix" -rP --show-capture=stdout

# Whole jobs over small inputs that once failed silently; needs the folder of these cases beside the project.
cases: setup
	$(BIN)/python -m pytest tests/cases -m cases -rs

fuzz: setup
	$(BIN)/python -m pytest tests -k fuzz --hypothesis-profile=fuzz --timeout=3600

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(VENV)/.installed

# constraints.txt pins the versions that CI has tested, for development and the demo; clusters choose the torch build for
# their GPUs.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Compares with TART's loop, sentence-transformers, the reference and bare matrix products; takes three quarters of an hour
# on two cores.
bench: setup
	$(BIN)/python -m benchmarks.scorer --geometry small
	$(BIN)/python -m benchmarks.scorer --geometry base --pairs 100

# For a machine with a GPU, nine minutes; needs no Ray, so `python3 -m benchmarks.gpu` does without the set-up where torch,
# transformers, sentencepiece and pyarrow are there.
bench-gpu: setup
	$(BIN)/python -m benchmarks.gpu --output gpu.json

bench-pipeline: setup
	$(BIN)/python -m benchmarks.pipeline

bench-data-plane: setup
	$(BIN)/python -m benchmarks.data_plane

bench-load: setup
	$(BIN)/python -m benchmarks.load_checkpoint

bench-mining: setup
	$(BIN)/python -m benchmarks.mining

# jobs.rerank with a cross-encoder, beside the library alone and Ray Data by hand (benchmarks/by_hand.py); ten minutes.
bench-cross-encoders: setup
	$(BIN)/python -m benchmarks.cross_encoder

# Training alone takes over an hour on two cores; a rerun continues where it stopped. Needs pip and Debian's package manager.
train-demo-model: setup
	$(BIN)/python -m recipes.demo_model all

SITE_PACKAGES := import sysconfig; print(sysconfig.get_path("purelib"))

$(ECOSYSTEM)/.installed: $(VENV)/.installed
	$(BIN)/python -m venv $(ECOSYSTEM)
	echo "import site; site.addsitedir('$$($(BIN)/python -c '$(SITE_PACKAGES)')')" \
	  > "$$($(ECOSYSTEM)/bin/python -c '$(SITE_PACKAGES)')/base.pth"
	$(ECOSYSTEM)/bin/pip install --quiet --constraint constraints.txt --editable '.[mteb,pyterrier]'
	touch $@

clean:
	rm -rf demo-output build .mypy_cache .pytest_cache .ruff_cache
