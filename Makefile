# Every target sets up what it needs; run again, the set-up costs next to nothing.
PYTHON ?= python3
# Relative: make splits a target at the blanks that the checkout's path may have.
VENV := .venv
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# A file's tests share what they have built; each process has a core, and as many threads. Scripting asks for hashes
# that are not random.
TEST := PYTHONHASHSEED=0 OMP_NUM_THREADS=1 python -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder

# What the C++ programs are built with; docs/cpp.md says what runs them.
CPP_PACKAGES := cmake g++ make libpng-dev libssl-dev nlohmann-json3-dev
CPP_OPTIONS ?=

.DEFAULT_GOAL := help
.PHONY: help setup repro params dist docs coverage coverage-docs export-benchmark parity-benchmark test test-all cpp-test lint lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

setup: $(READY) ## make .venv with the pinned packages

# uv makes the environment what requirements.lock says, no more and no less; then comes the package itself.
$(READY): requirements.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"error: Python {v.major}.{v.minor}; expected: 3.11 or later; remedy: make PYTHON=/path/to/python3.11")'
	"$(PYTHON)" -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(VENV)/bin/uv pip sync --quiet --compile-bytecode --python $(VENV)/bin/python requirements.lock
	$(VENV)/bin/uv pip install --quiet --no-deps --no-build-isolation --python $(VENV)/bin/python --editable .
	@touch $@

repro: $(READY) ## run the pipeline: data, export, proof, latency, registry, report
	@python tools/preflight.py
	dvc repro
	@echo "the report: reports/index.html"

params: $(READY) ## compose params.yaml from conf/; OVERRIDES="'export=[onnx]' ..." adds to it
	python tools/compose.py $(OVERRIDES)

coverage: $(READY) ## measure every architecture x every target; ONLY="--only mask_rcnn --target onnx" some
	python tools/measure_coverage.py --work-dir outputs/coverage --save-to reports/coverage.json $(ONLY)

coverage-docs: $(READY) ## make docs/coverage.md of what a whole `make coverage` measured
	python tools/document_coverage.py --cells reports/coverage.json --save-dir docs

export-benchmark: $(READY) ## measure time and memory of the exports of a published model; makes docs/benchmarks.md
	python tools/benchmark_export.py --document docs

# Faults are planted in models that give everything there is, on a target of every engine; every model is held
# against itself.
FAULTY := mask_rcnn keypoint_rcnn retinanet panoptic_fpn
MEASURE := python tools/measure_coverage.py --work-dir outputs/coverage --save-to outputs/coverage/faults.json
parity-benchmark: $(READY) ## plant faults in artifacts, count what validation catches and what it flags wrongly
	$(MEASURE) --target tracing
	$(MEASURE) $(foreach model,$(FAULTY),--only $(model)) \
	  $(foreach target,scripting onnx torch_export aot_inductor openvino,--target $(target))
	python tools/benchmark_parity.py --models-dir outputs/coverage/outputs/models --data outputs/coverage/data/shapes_sparse \
	  $(foreach model,$(FAULTY),--plant-in $(model))

test: $(READY) ## run the tests, a process a core
	$(TEST)

test-all: $(READY) ## run the tests, those of half a minute and more too
	$(TEST) -m ""

cpp-test: $(READY) ## build the C++ programs, hold them against the Python runtimes; CPP_OPTIONS goes to CMake
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
	@echo "the site: build/site/index.html; with search: python -m http.server --directory build/site"

dist: $(READY) ## build the sdist and the wheel into dist/
	rm -rf dist
	python -m hatchling build

lock: $(READY) ## resolve pyproject.toml into requirements.lock again
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --upgrade \
	  --no-header --no-annotate --output-file requirements.lock

clean: ## remove what the pipeline wrote, but for the registry and DVC's cache
	rm -rf data downloads outputs reports
