# Everything runs in .venv; PYTHON makes it.
PYTHON ?= python3.11
BIN := .venv/bin
# Tensors of these sizes live shorter than glibc gives memory back: keeping it saves about a tenth of the time.
export MALLOC_TRIM_THRESHOLD_ ?= 4000000000
export MALLOC_MMAP_THRESHOLD_ ?= 4000000000
MODELS := pictograms without-umbrella without-striped
FLOW_MODELS := $(MODELS:%=flow-%)
PRETRAIN := $(BIN)/lit-memories fit --config recipes/pictograms/pretrain
FASHION_MODELS := fashion fashion-without-sneaker fashion-without-bag
FASHION := $(BIN)/lit-memories fit --config recipes/fashion/pretrain
CHECKSUMS := cd checkpoints && find . -type f \( -name '*.json' -o -name '*.safetensors' \) | sed 's|^./||' | sort | xargs sha256sum > SHA256SUMS

.PHONY: help install quickstart test test-slow lint wheels benchmark-attacks benchmark-concepts benchmark-erasure benchmark-photographs benchmark-validity benchmark-worlds docs figures notebooks checkpoints fashion clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: .venv/installed ## make .venv with pinned versions

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/tested: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,lint,docs]'
	touch $@

.venv/documented: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

quickstart: .venv/installed ## erase a concept, audit four models, write runs/quickstart/report.html
	$(BIN)/lit-memories quickstart

test: .venv/tested ## the quick test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: .venv/tested ## scientific checks on the shipped model
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile

lint: .venv/tested ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheels: .venv/tested ## build the wheels of the code and of the shipped models into dist/, and check them
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist . ./checkpoints
	$(BIN)/twine check --strict dist/*.whl

benchmark-erasure: .venv/installed ## train and audit all methods, then again from other trainings, resumable, hours (docs/results/erasure.md)
	$(BIN)/python benchmarks/erasure.py
	$(BIN)/python benchmarks/erasure.py --family flow
	$(BIN)/python benchmarks/replicates.py
	$(BIN)/python benchmarks/erasure_page.py

benchmark-concepts: .venv/installed ## what erasing one thing does to all others, and what several at once do, resumable, an hour and a half (docs/results/interference.md, several.md)
	$(BIN)/python benchmarks/interference.py
	$(BIN)/python benchmarks/several.py

benchmark-worlds: .venv/installed ## train and audit models that saw exactly so many pictures, resumable, hours (docs/results/worlds.md)
	$(BIN)/python benchmarks/worlds.py
	$(BIN)/python benchmarks/worlds_scale.py

benchmark-validity: .venv/installed ## try every number of an audit on models of known truth, resumable (docs/results/validity.md)
	$(BIN)/python benchmarks/validity.py
	$(BIN)/python benchmarks/validity.py --family flow

benchmark-attacks: benchmark-erasure ## all attacks on models of known truth and erased ones, resumable, hours (docs/results/attacks.md)
	$(BIN)/python benchmarks/attacks.py

benchmark-photographs: .venv/installed ## erase and audit the Fashion-MNIST models, resumable, an hour (docs/results/photographs.md)
	$(BIN)/python benchmarks/photographs.py

docs: .venv/documented ## build the documentation as a site: build/site/index.html, no server and nothing from outside needed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

figures: .venv/installed ## figures and tables of docs/, from the shipped models
	$(BIN)/python docs/make.py

notebooks: .venv/tested ## run the notebooks of docs/notebooks anew, and keep what they print and show
	$(BIN)/python docs/notebooks/execute.py

checkpoints: .venv/installed ## train and measure everything in checkpoints/ again (about three hours on one core)
	$(PRETRAIN)/autoencoder.yaml
	$(PRETRAIN)/classifier.yaml
	$(PRETRAIN)/text_to_image.yaml
	$(PRETRAIN)/text_to_image_branch.yaml
	$(PRETRAIN)/text_to_image_branch.yaml --data.withhold '[{object: umbrella}]' \
		--model.save_to runs/pretrain/without-umbrella --trainer.default_root_dir runs/pretrain/logs/without-umbrella
	$(PRETRAIN)/text_to_image_branch.yaml --data.withhold '[{style: striped}]' \
		--model.save_to runs/pretrain/without-striped --trainer.default_root_dir runs/pretrain/logs/without-striped
	mkdir -p checkpoints
	cp -r runs/pretrain/classifier $(MODELS:%=runs/pretrain/%) checkpoints/
	$(PRETRAIN)/text_to_flow.yaml
	$(PRETRAIN)/text_to_flow_branch.yaml
	$(PRETRAIN)/text_to_flow_branch.yaml --data.withhold '[{object: umbrella}]' \
		--model.save_to runs/pretrain/flow-without-umbrella --trainer.default_root_dir runs/pretrain/logs/flow-without-umbrella
	$(PRETRAIN)/text_to_flow_branch.yaml --data.withhold '[{style: striped}]' \
		--model.save_to runs/pretrain/flow-without-striped --trainer.default_root_dir runs/pretrain/logs/flow-without-striped
	cp -r $(FLOW_MODELS:%=runs/pretrain/%) checkpoints/
	for model in $(MODELS) $(FLOW_MODELS); do \
		$(BIN)/lit-memories measure checkpoints/$$model --out checkpoints/$$model/measured.json || exit 1; done
	$(CHECKSUMS)

fashion: .venv/installed ## train and measure the Fashion-MNIST models in checkpoints/ again (about an hour on two cores)
	$(FASHION)/autoencoder.yaml
	$(FASHION)/classifier.yaml
	$(FASHION)/text_to_image.yaml
	$(FASHION)/text_to_image_branch.yaml
	for kind in sneaker bag; do \
		$(FASHION)/text_to_image_branch.yaml --data.withhold "[{kind: $$kind}]" --model.save_to runs/fashion/fashion-without-$$kind \
			--trainer.default_root_dir runs/fashion/logs/fashion-without-$$kind || exit 1; done
	rm -rf checkpoints/fashion-classifier $(FASHION_MODELS:%=checkpoints/%)
	cp -r runs/fashion/classifier checkpoints/fashion-classifier
	cp -r $(FASHION_MODELS:%=runs/fashion/%) checkpoints/
	for model in $(FASHION_MODELS); do \
		$(BIN)/lit-memories measure checkpoints/$$model --world recipes/fashion/world.yaml --images 10000 --classifier checkpoints/fashion-classifier \
			--withheld '[{kind: sneaker}, {kind: bag}]' --out checkpoints/$$model/measured.json || exit 1; done
	$(CHECKSUMS)

clean: ## remove what runs made
	rm -rf runs
