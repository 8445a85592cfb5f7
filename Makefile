# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# For people who want another build of torch, for example the CPU one:
#   make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
JOBS ?= 2
SUPERPOSE := $(BIN)/superpose
MODEL := smollm2-135m-instruct-q4_1

.PHONY: setup setup-dev demo test lint types walls bench report readme constraints clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' constraints.txt)"
	@touch $@

$(VENV)/.user: pyproject.toml $(VENV)/.torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[lab,report,serve]'
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all,dev]'
	@touch $@ $(VENV)/.user

setup: $(VENV)/.user  ## what a user needs

setup-dev: $(VENV)/.dev  ## all extras and the tools of development

demo: setup  ## measure a real language model, and leave a report
	$(SUPERPOSE) models get $(MODEL)
	$(SUPERPOSE) superposition measure $(MODEL) --family word --tasks copy,capitalise --sweep 0:1:0.25 --prompts 12 --jobs $(JOBS)
	$(SUPERPOSE) run task-superposition --claims TS3,TS5 --jobs $(JOBS)
	$(SUPERPOSE) report --out site/yours
	$(SUPERPOSE) report --store results --out site/published
	@echo
	@echo "Your report:        $(CURDIR)/site/yours/index.html"
	@echo "The published runs: $(CURDIR)/site/published/index.html"

test: setup-dev  ## every test
	$(BIN)/python -m pytest -n 2 --dist loadgroup

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup-dev
	$(BIN)/basedpyright

walls: setup-dev
	$(BIN)/lint-imports

bench: setup-dev  ## ratios against peers, each in one run
	$(BIN)/python benchmarks/bench_scoring.py
	$(BIN)/python benchmarks/bench_search.py
	$(BIN)/python benchmarks/bench_scan.py
	$(BIN)/python benchmarks/bench_tasks.py
	$(BIN)/python benchmarks/bench_many.py
	$(BIN)/python benchmarks/bench_training.py
	$(BIN)/python benchmarks/bench_tokens.py
	$(BIN)/python benchmarks/bench_looped.py
	$(BIN)/python benchmarks/bench_omp.py
	$(BIN)/python benchmarks/bench_lexico_decode.py
	$(BIN)/python benchmarks/bench_batching.py
	$(BIN)/python benchmarks/bench_serving.py
	$(BIN)/python benchmarks/bench_newton.py
	$(BIN)/python benchmarks/bench_linear_icl.py
	$(BIN)/python benchmarks/bench_graph_svm.py
	$(BIN)/python benchmarks/bench_ccmc.py
	$(BIN)/python benchmarks/bench_ridgeless.py
	$(BIN)/python benchmarks/bench_patching.py

report: setup  ## the site of the published runs
	$(SUPERPOSE) report --store results --out site/published

readme: setup  ## the README's verdict table and figure, from results/
	$(BIN)/python docs/readme.py

constraints: setup-dev  ## freeze what is installed, after the tests have passed with it
	(head -1 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' | grep -v '^superpose') > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) site build dist
