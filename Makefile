# What a person does with this repository. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
V := .venv/bin

.PHONY: help
help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

# --- run ---------------------------------------------------------------------------------------------------------

.PHONY: demo
demo: setup ## Set up and run the whole loop on this machine, in under two minutes
	@$(V)/marlin demo $(ARGS)

.PHONY: setup
setup: ## What the demo needs, into .venv (idempotent)
	@scripts/setup.sh demo

.PHONY: setup-dev
setup-dev: ## What checks, tests and docs need, into .venv (idempotent)
	@scripts/setup.sh dev

# --- check and test ----------------------------------------------------------------------------------------------

.PHONY: check
check: setup-dev ## Format, lint, types, import direction, generated files: under a minute
	@scripts/check.sh

.PHONY: test
test: setup-dev ## The whole test suite, with the time each part took (PARTS="frame router" for some)
	@$(V)/python scripts/run_tests.py $(PARTS)

.PHONY: test-long
test-long: setup-dev ## The long form of the sampled tests (more examples of each law), and the real vLLM
	@HYPOTHESIS_PROFILE=long $(V)/python scripts/run_tests.py $(PARTS)
	@$(MAKE) e2e-vllm

.PHONY: helm
helm: ## The Helm that chart tests run, into the user's cache (needs Go, some minutes once)
	@scripts/helm.sh

.PHONY: kube-score
kube-score: ## The linter of the chart's objects, into the user's cache (needs Go, some minutes once)
	@scripts/kube_score.sh

.PHONY: dashboard-check
dashboard-check: ## The check of the chart's dashboards by Grafana's types, into the user's cache (needs Go, some minutes once)
	@scripts/dashboard_check.sh

.PHONY: actionlint
actionlint: ## The linter of workflows, into the user's cache (needs Go, a minute once)
	@scripts/actionlint.sh

.PHONY: gateway-kinds
gateway-kinds: ## Kinds of the Gateway API and its inference extension that tests install, into Go's module cache (Go, seconds)
	@scripts/gateway_kinds.sh

.PHONY: promtool
promtool: ## The promtool that chart tests run, into the user's cache (Debian)
	@scripts/debian_tool.sh promtool

.PHONY: redis
redis: ## The redis-server that tests of shared budgets run, into the user's cache (Debian)
	@scripts/debian_tool.sh redis

.PHONY: nginx
nginx: ## The nginx whose verdicts on odd requests tests compare with, into the user's cache (Debian)
	@scripts/debian_tool.sh nginx

.PHONY: control-plane
control-plane: ## The API server and etcd that tests run against, into the user's cache (nine minutes, once; needs Go)
	@scripts/control_plane.sh

.PHONY: e2e-vllm
e2e-vllm: setup-dev ## The emulator's contract tests and the official clients against a real vLLM on CPU (5 GB, some minutes)
	@scripts/e2e_vllm.sh

.PHONY: e2e-kind
e2e-kind: setup-dev ## A hub and two member clusters with kind: plans, changes, failures, upgrade (docker, kind, images; twenty minutes)
	@scripts/e2e_kind.sh $(ARGS)

.PHONY: soak
soak: setup-dev ## The router under mixed load, kills and plan changes for half an hour (ARGS="--minutes 5")
	@$(V)/python tests/support/router_soak.py $(ARGS)

.PHONY: soak-count
soak-count: setup-dev ## Ten million requests through the router and 100,000 streams that are left: what stays? (ARGS="--minutes 5")
	@$(V)/python tests/support/soak_count.py $(ARGS)

.PHONY: soak-operator
soak-operator: setup-dev ## The operator under a day of random faults, on a simulated clock (ARGS="--hours 4 --seed 7")
	@$(V)/python tests/support/operator_soak.py $(ARGS)

.PHONY: fuzz
fuzz: setup-dev ## Broken bytes for the router's readers and its sockets for half an hour (ARGS="--minutes 5")
	@$(V)/python tests/support/router_fuzz.py $(ARGS)

.PHONY: bench
bench: setup-dev ## Benchmarks, one line per figure (ONLY=demo|twin|environments|policy|router|operator)
	@$(V)/python benchmarks/run.py $(if $(ONLY),--only $(ONLY))

# --- make --------------------------------------------------------------------------------------------------------

.PHONY: format
format: setup-dev ## Format the code and mend what can be mended
	@$(V)/ruff format && $(V)/ruff check --fix

.PHONY: generate
generate: setup-dev ## Everything that is generated from the code: CRDs, reference pages
	@$(V)/marlin crds --out manifests/crds
	@$(V)/marlin crds --out charts/marlin/files/crds
	@$(V)/python scripts/generate_reference.py
	@$(V)/python scripts/generate_chart.py

.PHONY: generate-chart
generate-chart: generate ## Those, and what the chart renders to; after a change of the chart (needs `make helm`)
	@$(V)/python scripts/render_chart.py

.PHONY: data
data: setup-dev ## The shipped tables, from the full data (DATA=folder)
	@test -n "$(DATA)" || { echo "make data: say where the full files are: make data DATA=folder" >&2; exit 2; }
	@$(V)/python -m marlin.simulator.derive --data "$(DATA)" --out simulator/marlin/simulator/data

.PHONY: constraints
constraints: setup-dev ## New pins for all dependencies
	@$(V)/uv pip compile pyproject.toml --all-extras --group dev --group docs --universal --python-version 3.11 --upgrade -o constraints.txt

.PHONY: docs
docs: setup-dev ## The documentation as a web site, in site/
	@$(V)/mkdocs build --strict --quiet && echo "site/index.html"

.PHONY: docs-serve
docs-serve: setup-dev ## The documentation on http://127.0.0.1:8000, rebuilt as you write
	@$(V)/mkdocs serve

.PHONY: wheel
wheel: setup-dev ## The wheel, in dist/
	@$(V)/uv build --wheel --quiet && ls dist/*.whl

.PHONY: images
images: setup-dev ## Container images of router and operator (needs docker; BASE=... names the base, ARGS=--context fetches only)
	@BASE="$(BASE)" scripts/images.sh $(ARGS)

.PHONY: clean
clean: ## Remove what can be remade
	@rm -rf .venv .cache dist build site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
