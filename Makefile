# Every target first sets up the environment, which does nothing if it is up to date.
PYTHON ?= python3
# Relative, since make splits a target at blanks, which the checkout's path may contain.
VENV := .venv
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# The tests of a file share fixtures, so they run in one process; each process uses one thread. Scripting needs fixed
# hashes.
TEST := PYTHONHASHSEED=0 OMP_NUM_THREADS=1 python -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder

# Packages to build the C++ programs; docs/cpp.md lists those to run them.
CPP_PACKAGES := cmake g++ make libpng-dev libssl-dev nlohmann-json3-dev
CPP_OPTIONS ?=

.DEFAULT_GOAL := help
.PHONY: help setup repro jobs retrain params experiments dist docs coverage coverage-docs export-benchmark parity-benchmark test test-all cpp-test lint lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

setup: $(READY) ## create .venv with the pinned packages

# uv installs exactly the packages of requirements.lock; then follows detexport itself.
$(READY): requirements.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"error: Python {v.major}.{v.minor}; expected: 3.11 or later; remedy: make PYTHON=/path/to/python3.11")'
	@echo "set-up: install the $$(wc -l <requirements.lock) packages of requirements.lock into $(VENV), about 6 GB;" \
	  "the first time takes some minutes, without output until it is done"
	"$(PYTHON)" -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(VENV)/bin/uv pip sync --quiet --compile-bytecode --python $(VENV)/bin/python requirements.lock
	$(VENV)/bin/uv pip install --quiet --no-deps --no-build-isolation --python $(VENV)/bin/python --editable .
	@touch $@

repro: $(READY) ## run the pipeline: data, export, parity, latency, registry, report
	@python tools/preflight.py
	dvc repro
	@echo "report: reports/index.html"

jobs: $(READY) ## run the pipeline, its jobs in parallel on the engine of params.yaml: make params OVERRIDES="engine=ray"
	@python tools/preflight.py
	python tools/run_jobs.py $(OPTIONS)
	dvc repro
	@echo "report: reports/index.html"

retrain: $(READY) ## retrain and export if data, code or environment changed: OPTIONS="--no-push"
	detexport-job retrain $(OPTIONS)

params: $(READY) ## compose params.yaml from conf/, with overrides: OVERRIDES="'export=[onnx]' ..."
	python tools/compose.py $(OVERRIDES)

experiments: $(READY) ## compare experiments: metrics of each job, changed parameters; OPTIONS="--num 3"
	@python tools/show_experiments.py -- $(OPTIONS)

coverage: $(READY) ## measure every architecture x every target, or some: ONLY="--only mask_rcnn --target onnx"
	python tools/measure_coverage.py --work-dir outputs/coverage --save-to reports/coverage.json $(ONLY)

coverage-docs: $(READY) ## write docs/coverage.md from the results of a whole `make coverage`
	python tools/document_coverage.py --cells reports/coverage.json --save-dir docs

export-benchmark: $(READY) ## measure time and memory of a published model's exports; write docs/benchmarks.md
	python tools/benchmark_export.py --document docs

# Faults are planted in models with all kinds of outputs, on a target of every runtime. False alarms are counted on
# every model.
FAULTY := mask_rcnn keypoint_rcnn retinanet panoptic_fpn
MEASURE := python tools/measure_coverage.py --work-dir outputs/coverage --save-to outputs/coverage/faults.json
parity-benchmark: $(READY) ## plant faults in artifacts; count those that validation catches, and its false alarms
	$(MEASURE) --target tracing
	$(MEASURE) $(foreach model,$(FAULTY),--only $(model)) \
	  $(foreach target,scripting onnx torch_export aot_inductor openvino,--target $(target))
	python tools/benchmark_parity.py --models-dir outputs/coverage/outputs/models --data outputs/coverage/data/shapes_sparse \
	  $(foreach model,$(FAULTY),--plant-in $(model))

test: $(READY) ## run the tests, one process per core
	$(TEST)

test-all: $(READY) ## run all tests, also those marked slow and cpp
	$(TEST) -m ""

cpp-test: $(READY) ## build the C++ programs, compare them with the Python runtimes; CPP_OPTIONS goes to CMake
	@for tool in cmake c++ make; do command -v $$tool >/dev/null || { \
	  echo "error: $$tool is missing; remedy: apt-get install $(CPP_PACKAGES)" >&2; exit 1; }; done
	cmake -S cpp -B build/cpp -DSITE_PACKAGES="$$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" $(CPP_OPTIONS)
	cmake --build build/cpp --parallel 2
	$(TEST) tests/cpp -m cpp

lint: $(READY) ## run ruff and mypy as pre-commit and CI do
	ruff check
	ruff format --check
	mypy

docs: $(READY) ## build the documentation site in build/site
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict
	@echo "site: build/site/index.html; with search: python -m http.server --directory build/site"

dist: $(READY) ## build the sdist and the wheel into dist/
	rm -rf dist
	python -m hatchling build

lock: $(READY) ## resolve pyproject.toml into requirements.lock, with the latest versions
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --upgrade \
	  --no-header --no-annotate --output-file requirements.lock

clean: ## remove the pipeline's outputs, except the registry and DVC's cache
	rm -rf data downloads jobs outputs reports
