# TACO-ROS. `make help` lists what there is.
.PHONY: help setup demo test lint tables docs pictures coverage bench parity soak test-kilted audit clean
.DEFAULT_GOAL := help
unexport PYTHONPATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH LD_LIBRARY_PATH ROS_DISTRO _ROS_WHEELS_BOOTSTRAP_COMPLETE
PY := .venv/bin/python

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## make .venv: packages, ROS 2 middleware, messages, embedded models
	@tools/setup.sh

demo: setup ## see and hear it: the real graph on scenes of real photographs and sounds; results in build/demo
	@$(PY) -m taco.demo

test: setup lint ## every test, and the linter (BIRDNET=1 adds the optional extra's)
	@tools/setup_audio.sh
	@$(PY) -m pytest -n 2 -m "not live"
	@$(PY) -m pytest -m live

lint: setup ## ruff, mypy (strict), spelling, YAML and XML
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .
	@.venv/bin/bandit -q -c pyproject.toml -r taco taco_ros tools launch
	@.venv/bin/mypy && .venv/bin/codespell && .venv/bin/yamllint -s .
	@$(PY) -c "import xml.etree.ElementTree as x; [x.parse(f) for f in ('package.xml', 'config/fastdds_loopback.xml', 'config/sros2/policy.xml')]"

audit: setup ## compare the packages in .venv with the public list of vulnerabilities; needs the network
	@$(PY) -m pip install --quiet pip-audit && $(PY) -m pip_audit --local --skip-editable

tables: ## rewrite the tables and the tree in docs/ and config/ that are generated from the code
	@AMENT_PREFIX_PATH=$(CURDIR)/.venv $(PY) -m tools.tables

docs: setup ## the pages of docs/ as a site in build/site; a broken link or a forgotten page is an error
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs --quiet build --strict && echo "open build/site/index.html"

pictures: setup ## draw the pictures of README and docs again, from photographs that may be shared
	@$(PY) -m taco.demo.picture docs/pictures/taco.webp && $(PY) -m taco.demo.figures docs/pictures

coverage: setup ## run the tests that need no real time, and name the lines that none reaches
	@$(PY) -m pytest -n 2 -m "not live" --cov --cov-report=term-missing:skip-covered

bench: setup ## time the solvers, the stream and the node
	@$(PY) -m taco.cli bench solver && $(PY) -m taco.cli bench stream && $(PY) -m taco.cli bench node

MINUTES ?= 60
soak: setup ## the live graph for MINUTES=60 with random changes: does memory, age or anything else grow?
	@$(PY) -m test.taco_ros.soak $(MINUTES) embedded

test-kilted: setup ## the ROS tests again on ROS 2 Kilted, in .venv-kilted
	@tools/test_kilted.sh

parity: setup ## compare the audio tower with the msclap package, in .venv-parity
	@tools/parity.sh

clean: ## remove what was built and composed (not .venv, the weights, the demo's results in build/demo)
	@mkdir -p build && find build -mindepth 1 -maxdepth 1 ! -name demo -exec rm -rf {} +
	@rm -rf install log *.egg-info symlink_install_manifest.txt
