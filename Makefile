# Everything sets itself up: `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_ARGS ?=
PYTEST_ARGS ?=
FUZZ_INPUTS ?= 1000000
FUZZ_ARGS ?=
BENCH_ARGS ?=

.PHONY: demo test lint format proto clean bench-demo bench-ledger bench-secagg bench-dp bench-gpu bench-utility model-check fuzz

demo: $(STAMP) ## run a whole consortium on this machine
	$(BIN)/tacit demo $(DEMO_ARGS)

test: $(STAMP) ## run the tests
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

model-check: $(STAMP) ## explore all a coordinator can do to the secure aggregation's sites (minutes)
	$(BIN)/python -m tests.privacy.secagg.model_check

lint: $(STAMP) ## ruff (lint and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-demo: $(STAMP) ## how reliable the demo's recipe is: five seeds, simulated
	HF_HUB_OFFLINE=1 $(BIN)/python -m simulations.demo_seeds

fuzz: $(STAMP) ## a night of mutations for every decoder; FUZZ_ARGS names some, out/fuzz keeps corpus and crashes
	@$(BIN)/python -c 'import atheris' 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,dev,fuzz]'
	$(BIN)/python tests/fuzz/nightly.py --inputs $(FUZZ_INPUTS) $(FUZZ_ARGS)

bench-ledger: $(STAMP) ## reservations, commits and proofs of a ledger of 10,000 entries
	$(BIN)/python -m simulations.benchmarks.ledger_speed $(BENCH_ARGS)

bench-secagg: $(STAMP) ## secure aggregation beside Flower's SecAgg+, the gateway's memory, a step's latency
	HF_HUB_OFFLINE=1 $(BIN)/python -m simulations.benchmarks.secagg $(BENCH_ARGS)
	HF_HUB_OFFLINE=1 $(BIN)/python -m simulations.benchmarks.gateway_memory $(BENCH_ARGS)
	HF_HUB_OFFLINE=1 $(BIN)/python -m simulations.benchmarks.step_latency $(BENCH_ARGS)
	$(BIN)/python -m simulations.benchmarks.surplus_cost $(BENCH_ARGS)

bench-dp: $(STAMP) ## what differential privacy costs a step of LoRA, beside stock peft and Opacus
	HF_HUB_OFFLINE=1 $(BIN)/python -m simulations.benchmarks.dp_step $(BENCH_ARGS)

bench-gpu: $(STAMP) ## the same on a GPU, with a decoder of 0.67 billion weights; needs a CUDA build of torch
	HF_HUB_OFFLINE=1 $(BIN)/python -m simulations.benchmarks.gpu_step $(BENCH_ARGS)

bench-utility: $(STAMP) ## what accuracy privacy leaves on banking77 and clinc150; takes up where it was (hours)
	HF_HUB_OFFLINE=1 $(BIN)/python -m simulations.benchmarks.utility $(BENCH_ARGS)

proto: $(STAMP) ## regenerate the checked-in gRPC stubs
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. client/wire/tacit.proto

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $$($(PYTHON) --version) found, Python 3.11 or later is needed" >&2; \
	    echo "hint: install it, then: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV) || \
	  { echo "hint: on Debian, install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,dev]'
	@touch $(STAMP)

clean: ## remove everything a build or demo made
	rm -rf $(VENV) demo out build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
