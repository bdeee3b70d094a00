# make race    trains real models with six methods and says which is best (under 10 minutes on 2 cores)
# make bench   times the engine against its byte bound and its rivals (ARGS="--help" for what can be chosen)
# make calibrate  says how often the referee's verdicts are wrong (ARGS="--help" for what can be chosen)
# make test    format, lint, types, docs and tests
# make gallery redraws the paths of docs/trace.md (a few minutes)
# make setup   prepares the environment in .venv alone

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
STAMP := $(VENV)/.ready
BENCH_STAMP := $(VENV)/.bench-ready

.PHONY: race bench calibrate gallery test programs setup check format clean

# Two trials at once where there are two cores. The same command resumes a race that was stopped. The targets are easier than
# the workloads' own, which three tuning trials would often miss.
RACE := fashion-mlp sotu-gpt --target fashion-mlp=0.39,sotu-gpt=2.6 --methods adamw,sgd,lion,adabelief,muon,dog --trials 3 --seeds 5 --folder races/default

race: $(STAMP)
	@$(RUN)/downslope race $(RACE) --jobs $$($(RUN)/python -c "import os; print(min(2, os.cpu_count()))")

# The rivals come on top of what CI uses; the constraints keep them from bringing another torch.
bench: $(BENCH_STAMP)
	$(RUN)/python -m benchmarks.bench $(ARGS)

$(BENCH_STAMP): $(STAMP)
	$(RUN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[bench]" && touch $@ || \
		echo "The rivals could not be installed; the rest is measured without them."

GALLERY := rosenbrock river saddle himmelblau

gallery: $(STAMP)
	@for function in $(GALLERY); do OMP_NUM_THREADS=1 $(RUN)/downslope trace $$function \
		--methods sgd,adam,rmsprop,lion,adabelief --picture docs/pictures/trace-$$function.svg || exit 1; done

calibrate: $(STAMP)
	OMP_NUM_THREADS=1 $(RUN)/python -m benchmarks.calibrate $(ARGS)

test: check programs
	OMP_NUM_THREADS=1 DOWNSLOPE_SCREENSHOTS=build/screenshots $(RUN)/python -m pytest -q -rs -n 2

# Races on several machines are tested with a real PostgreSQL, reports in a real browser; where one of them is missing and
# cannot be installed, its tests skip and say so.
programs:
	@ls /usr/lib/postgresql/*/bin/pg_ctl >/dev/null 2>&1 || $(call install,postgresql)
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || $(call install,chromium)

install = test "$$(id -u)" != 0 || { apt-get update -qq && apt-get install -y -qq $(1) >/dev/null; } || echo "$(1) could not be installed"

check: $(STAMP)
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy
	$(RUN)/python -m tools.pages --check

format: $(STAMP)
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .
	$(RUN)/python -m tools.pages

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(RUN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(STAMP)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .hypothesis
