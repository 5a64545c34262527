# Everything starts from this Python (3.10 or newer). One that has torch keeps it: see tools/bootstrap.py.
PYTHON ?= python3
# Passed on to `tridiff fuzz`.
FUZZ_ARGS ?= --seconds 120
# Passed on to `tridiff targets`.
TARGETS_ARGS ?=
# What is fetched: NAME or NAME==VERSION. Without a version, the newest if there is none in .upstream yet.
VLLM ?= vllm
SGLANG ?= sglang
AITER ?= amd_aiter
# Added to `pytest -n auto`; a later -n wins.
PYTEST_ARGS ?=

# The Triton releases of `make test-versions`; those of triton-versions.txt when empty.
TRITON_VERSIONS ?=

# One BLAS thread per process: the parallelism is in the processes.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1

SUPPORTED := import sys; sys.version_info < (3, 10) and sys.exit("tridiff: Python 3.10 or newer is needed, and $(PYTHON) is %d.%d: run make PYTHON=python3.12, say" % sys.version_info[:2])

# Sets the shell's $python to the interpreter that has everything installed.
define SET_UP
command -v "$(PYTHON)" >/dev/null || { echo "tridiff: $(PYTHON) was not found: run make PYTHON=/path/to/python3" >&2; exit 2; }; \
"$(PYTHON)" -c '$(SUPPORTED)' && python=$$("$(PYTHON)" tools/bootstrap.py)
endef

# Runs the command $(2) on the kernels of the adapter $(1), from the Python files of the release $(3), with the arguments $(4).
define UPSTREAM
$(SET_UP) && "$$python" tools/fetch_upstream.py "$(3)" && \
TRIDIFF_UPSTREAM=.upstream "$$(dirname "$$python")/tridiff" $(2) --plugin tridiff.adapters.$(1) --kernel '$(1)_*' $(4)
endef

.DEFAULT_GOAL := help
.PHONY: help setup fuzz fuzz-vllm fuzz-sglang fuzz-aiter targets-vllm targets-sglang targets-aiter fetch-vllm fetch-sglang fetch-aiter test test-versions docs-operations lint format-check ruff mypy clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-17s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## prepare the environment (.venv); the other targets do so too
	@$(SET_UP)

fuzz:  ## fuzz for two minutes, or with FUZZ_ARGS="..."
	@$(SET_UP) && "$$(dirname "$$python")/tridiff" fuzz $(FUZZ_ARGS)

fuzz-vllm:  ## fuzz the kernels of a released vLLM, VLLM="vllm==0.33.0", say, with FUZZ_ARGS="..."
	@$(call UPSTREAM,vllm,fuzz,$(VLLM),$(FUZZ_ARGS))

fuzz-sglang:  ## likewise SGLang's, SGLANG="sglang==0.5.23", say
	@$(call UPSTREAM,sglang,fuzz,$(SGLANG),$(FUZZ_ARGS))

fuzz-aiter:  ## likewise AITER's, AITER="amd_aiter==...", say
	@$(call UPSTREAM,aiter,fuzz,$(AITER),$(FUZZ_ARGS))

targets-vllm:  ## compile the kernels of a released vLLM for all targets, with TARGETS_ARGS="..."
	@$(call UPSTREAM,vllm,targets,$(VLLM),$(TARGETS_ARGS))

targets-sglang:  ## likewise SGLang's
	@$(call UPSTREAM,sglang,targets,$(SGLANG),$(TARGETS_ARGS))

targets-aiter:  ## likewise AITER's
	@$(call UPSTREAM,aiter,targets,$(AITER),$(TARGETS_ARGS))

fetch-vllm:  ## fetch the Python files of a vLLM release into .upstream, and no more
	@$(SET_UP) && "$$python" tools/fetch_upstream.py "$(VLLM)"

fetch-sglang:  ## likewise SGLang's
	@$(SET_UP) && "$$python" tools/fetch_upstream.py "$(SGLANG)"

fetch-aiter:  ## likewise AITER's
	@$(SET_UP) && "$$python" tools/fetch_upstream.py "$(AITER)"

test:  ## run the tests on all cores, with PYTEST_ARGS="..." added
	@$(SET_UP) && "$$python" -m pytest -n auto $(PYTEST_ARGS)

test-versions:  ## run the engines' tests on the other Triton releases, or with TRITON_VERSIONS="3.6.0 ..."
	@$(SET_UP) && "$$python" tools/tritons.py $(TRITON_VERSIONS)

docs-operations:  ## write docs/reference/operations.md
	@$(SET_UP) && "$$python" tools/operation_table.py

lint: format-check ruff mypy  ## the three that follow

format-check:  ## is everything formatted?
	@$(SET_UP) && "$$python" -m ruff format --check .

ruff:  ## ruff's rules
	@$(SET_UP) && "$$python" -m ruff check .

mypy:  ## the type checker
	@$(SET_UP) && "$$python" -m mypy

clean:  ## remove the environment, build results and caches; the failures that Hypothesis keeps in .hypothesis stay
	@if [ -e .venv/tridiff-setup.json ]; then rm -rf .venv; fi
	@rm -rf build dist .tritons .upstream tridiff.egg-info .mypy_path .mypy_cache .ruff_cache .pytest_cache
	@find . -name .git -prune -o -name .venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
