# Two commands: make demo, make test. Both need Python 3.10 or newer, git and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed
DATA ?=

.PHONY: demo test test-browser test-cluster test-oldest test-wheel lint bench check-safety check-soak check-fuzz check-mutations check-accuracy check-peers doc clean

# Installs into .venv, with the versions that were tested.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -e '.[offline,dev]'
	touch $@

# Fits and scores on real images, writes heat maps to demo_output/.
# On your own images, in MVTec layout: make demo DATA=path/to/category
demo: $(INSTALLED)
	$(BIN)/python -m skdinoad.demo $(if $(DATA),"$(DATA)")

# Two tests side by side: each keeps to one thread.
test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not cluster"

# The HTML report in a headless chromium; skipped, with the reason, where there is none.
test-browser: $(INSTALLED)
	$(BIN)/python -m pytest -m browser -rs

# Worker processes of Dask, and of Ray where it can be had; one of each is killed.
test-cluster: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -e '.[ray]' || echo 'No Ray here: its tests are skipped.'
	$(BIN)/python -m pytest -m cluster -rs tests/scale

# The same on the oldest versions that pyproject.toml allows, in an environment of its
# own (a few GB: the oldest torch comes with CUDA only).
OLDEST := .venv-oldest
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest -n 2 --dist worksteal -m "not cluster"

$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints-oldest.txt -e '.[offline,test]'
	touch $@

# The wheel, built from the sdist, in a fresh environment with nothing of this folder:
# what `pip install skdinoad` would give. It learns, scores and reports.
WHEEL := build/wheel
test-wheel: $(INSTALLED)
	rm -rf $(WHEEL) dist && mkdir -p $(WHEEL)
	$(BIN)/python -m pip install --quiet build
	$(BIN)/python -m build --quiet --outdir dist .
	tar tzf dist/*.tar.gz | grep -q tests/conftest.py
	tar tzf dist/*.tar.gz | grep -q tests/detectors/test_dfr.py
	$(PYTHON) -m venv $(WHEEL)/venv
	$(WHEEL)/venv/bin/pip install --quiet -c constraints.txt "$$(ls dist/*.whl)[offline]"
	cd $(WHEEL) && SKDINOAD_OFFLINE=1 venv/bin/python ../../tests/try_wheel.py

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m mypy

# The quick ratios beside those of an earlier commit, then speed, memory and searches.
bench: $(INSTALLED)
	$(BIN)/python benchmarks/speed/bench.py
	$(BIN)/python benchmarks/speed/overhead.py
	$(BIN)/python benchmarks/speed/search.py
	$(BIN)/python benchmarks/speed/memory.py
	$(BIN)/python benchmarks/speed/bank.py
	$(BIN)/python benchmarks/speed/step.py
	$(BIN)/python benchmarks/speed/dfr_stages.py
	$(BIN)/python benchmarks/speed/few_and_many.py
	$(BIN)/python benchmarks/speed/aupro.py
	$(BIN)/python benchmarks/speed/carrying_back.py
	$(BIN)/python benchmarks/accuracy/placement.py
	$(BIN)/python benchmarks/speed/tiling.py
	$(BIN)/python benchmarks/speed/one_pass.py
	$(BIN)/python benchmarks/speed/latency.py
	$(BIN)/python benchmarks/speed/contention.py
	$(BIN)/python benchmarks/speed/overlap.py
	$(BIN)/python benchmarks/speed/scale.py
	$(BIN)/python benchmarks/speed/serve.py

# Damage, kills and hostile files: trials and failures of each promise.
check-safety: $(INSTALLED)
	$(BIN)/python tests/stress/safety.py

# Ten thousand images through one process, by the packaged network too: does its memory
# grow?
check-soak: $(INSTALLED)
	$(BIN)/python tests/stress/soak.py --real

# Thousands of odd arrays, files and parameters, other ones each time: minutes to hours.
check-fuzz: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 tests/fuzz --hypothesis-profile=long

# Takes one protection after the other out of a copy of the tree: does a test fail?
check-mutations: $(INSTALLED)
	$(BIN)/python tests/stress/mutations.py

check-accuracy: $(INSTALLED)
	@test -n "$(DATA)" || { echo "usage: make check-accuracy DATA=folder"; exit 2; }
	$(BIN)/python benchmarks/accuracy/verdicts.py --root "$(DATA)"
	$(BIN)/python benchmarks/accuracy/choices.py "$(DATA)"
	$(BIN)/python benchmarks/accuracy/map_smoothing.py "$(DATA)"
	$(BIN)/python benchmarks/accuracy/layers.py "$(DATA)"
	$(BIN)/python benchmarks/accuracy/fusion.py "$(DATA)"
	$(BIN)/python benchmarks/accuracy/by_category.py "$(DATA)"
	$(BIN)/python benchmarks/accuracy/few_shot.py --root "$(DATA)"
	$(BIN)/python benchmarks/accuracy/smaller_banks.py "$(DATA)"
	$(BIN)/python benchmarks/accuracy/nearest_images.py "$(DATA)"
	$(BIN)/python tests/stress/determinism.py "$(DATA)"
	$(BIN)/python benchmarks/accuracy/dinomaly.py --root "$(DATA)"
	$(BIN)/python benchmarks/accuracy/centring.py "$(DATA)"
	$(BIN)/python benchmarks/accuracy/false_alarms.py "$(DATA)"
	$(BIN)/python benchmarks/accuracy/drift.py "$(DATA)"
	$(BIN)/python benchmarks/accuracy/table.py --root "$(DATA)"

# Other libraries side by side, in an environment of their own (a few GB).
PEERS := .venv-peers
check-peers: $(PEERS)/.installed
	@test -n "$(DATA)" || { echo "usage: make check-peers DATA=folder"; exit 2; }
	$(PEERS)/bin/python benchmarks/peers/peers.py "$(DATA)"

$(PEERS)/.installed: pyproject.toml constraints.txt benchmarks/peers/requirements.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -r benchmarks/peers/requirements.txt
	touch $@

doc: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	$(BIN)/python -m sphinx -W -b html doc doc/_build/html
	$(BIN)/python doc/check_pages.py doc/_build/html

clean:
	rm -rf .venv .venv-oldest .venv-peers demo_output doc/_build
