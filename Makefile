# commitd. `make demo` and `make test` do everything; `make help` names the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
UV := uv==0.13.9
# Trust what the machine trusts, such as a company's own authority; without such a list, uv's own.
export UV_SYSTEM_CERTS := $(if $(wildcard /etc/ssl/certs/ca-certificates.crt),true,false)
# What is compiled is kept, also where the machine says otherwise: thousands of processes import all of it.
unexport PYTHONDONTWRITEBYTECODE
SYNC := $(BIN)/uv sync --frozen --inexact --quiet --no-python-downloads
PYTEST := $(BIN)/python -m pytest --no-header
# Tests in several processes, of which none waits for the next test while another has more than one.
PARALLEL := -n 2 --dist worksteal
# Those with real processes wait more than they work.
PARALLEL_WAITING := -n 4 --dist worksteal

# The stages of `make test`, in this order; each is a verb of its own.
STAGES := servers lint types house unit pythons sim integration chaos
# Fast tests in one process each.
UNIT := tests/unit tests/traces tests/papers tests/property tests/exhaustive tests/contract tests/defects
OTHER_PYTHONS := 3.12 3.13
# What tests start for themselves, servers and one example's language: a program of each, and its Debian package.
SERVERS := initdb:postgresql mariadbd:mariadb-server redis-server:redis-server nats-server:nats-server node:nodejs
# And what they cut the power of: a disk of our own below a real file system.
SERVERS += fusermount3:fuse3 mkfs.ext4:e2fsprogs losetup:mount eatmydata:eatmydata
# Where Debian puts programs that are not in everybody's path.
SERVER_PATH := $(PATH):/usr/sbin:$(subst $() ,:,$(wildcard /usr/lib/postgresql/*/bin))
BENCHMARKS := log commit failover scale resource_managers protocols
FOR := 600
SEEDS := 50

.PHONY: help
help: ## Name the verbs
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

# ── For users ────────────────────────────────────────────────────────────────────────────────────────────────────

.PHONY: setup
setup: $(VENV)/.ready ## Make the environment in .venv

.PHONY: demo
demo: $(VENV)/.ready ## Move money between two banks while their coordinators die: make demo ARGS=--json
	@$(BIN)/commitd demo $(ARGS)

.PHONY: test
test: $(VENV)/.ready-test ## Everything that must hold before a change goes in
	@took=()
	for stage in $(STAGES); do
	    echo; echo "── $$stage"
	    begin=$$SECONDS
	    $(MAKE) --no-print-directory $$stage
	    took+=("$$stage $$((SECONDS - begin))")
	done
	echo
	printf 'stage %-12s %4d s\n' $${took[@]} total $$SECONDS

# ── The stages of `make test` ────────────────────────────────────────────────────────────────────────────────────

.PHONY: servers
servers: ## Install what tests start for themselves, where it is missing
	@packages=
	for server in $(SERVERS); do
	    PATH="$(SERVER_PATH)" type -P "$${server%%:*}" >/dev/null || packages+=" $${server##*:}"
	done
	if [ -z "$$packages" ]; then exit 0; fi
	root=
	if [ "$$(id -u)" != 0 ]; then root='sudo -n'; fi
	if ! command -v apt-get >/dev/null || ! $$root true 2>/dev/null; then
	    echo "not installed, and not ours to install:$$packages; tests that need them are skipped"
	    exit 0
	fi
	echo "installing$$packages"
	# Debian starts a service as soon as it is installed, unless this file says no. Ours run by themselves.
	policy=/usr/sbin/policy-rc.d
	if [ ! -e $$policy ]; then
	    printf '#!/bin/sh\nexit 101\n' | $$root tee $$policy >/dev/null
	    $$root chmod +x $$policy
	    trap "$$root rm -f $$policy" EXIT
	fi
	$$root apt-get update -qq
	$$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$packages >/dev/null

.PHONY: lint
lint: $(VENV)/.ready-test ## Format, lint rules, direction of imports
	@$(BIN)/ruff format --check --quiet . || { echo 'run: make format'; exit 1; }
	$(BIN)/ruff check --quiet .
	PYTHONPATH=. $(BIN)/lint-imports --no-logo

.PHONY: types
types: $(VENV)/.ready-test ## mypy --strict
	@$(BIN)/python -m mypy

.PHONY: house
house: $(VENV)/.ready-test ## Sizes, words, exports, links, pins
	@$(PYTEST) $(PARALLEL) tests/house

.PHONY: unit
unit: $(VENV)/.ready-test ## Units, traces, the papers' claims, properties, small worlds, contracts, known defects
	@$(PYTEST) $(PARALLEL_WAITING) $(UNIT)

.PHONY: sim
sim: $(VENV)/.ready-test ## Simulated clusters in virtual time; a power cut at every write
	@$(PYTEST) $(PARALLEL) tests/simulation tests/power

.PHONY: integration
integration: $(VENV)/.ready-test ## Real processes on loopback
	@$(PYTEST) $(PARALLEL_WAITING) tests/integration tests/takeovers

.PHONY: chaos
chaos: $(VENV)/.ready-test ## kill -9 and power cuts at random moments under load, the short form
	@$(PYTEST) tests/chaos tests/blackout

.PHONY: pythons
pythons: $(VENV)/.ready-test ## tests/unit on every other supported Python at hand
	@own=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
	for version in $(OTHER_PYTHONS); do
	    if [ "$$version" = "$$own" ]; then echo "Python $$version: ran as 'unit'"; continue; fi
	    found=
	    for python in $$(type -aP python$$version) $$HOME/.pyenv/versions/$$version.*/bin/python$$version; do
	        if "$$python" -c 'import venv' 2>/dev/null; then found=$$python; break; fi
	    done
	    if [ -z "$$found" ]; then echo "Python $$version: no interpreter here, skipped"; continue; fi
	    echo "Python $$version: $$found"
	    UV_PROJECT_ENVIRONMENT=$(VENV)-$$version $(SYNC) --python "$$found"
	    $(VENV)-$$version/bin/python -m pytest --no-header $(PARALLEL_WAITING) tests/unit
	done

# ── By hand ──────────────────────────────────────────────────────────────────────────────────────────────────────

.PHONY: format
format: $(VENV)/.ready-test ## Format the code and mend what lint can mend
	@$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --quiet --fix .

.PHONY: kills
kills: $(VENV)/.ready ## 500 random kill -9 under load, then the audit: make kills ARGS='--kills 100 --seed 7'
	@$(BIN)/python -m tests.chaos $(ARGS)

.PHONY: takeovers
takeovers: $(VENV)/.ready-test ## kill -9 of the leader at every step of every protocol: make takeovers ARGS='--play saga'
	@$(BIN)/python -m tests.takeovers $(ARGS)

.PHONY: cuts
cuts: $(VENV)/.ready-test ## 50 power cuts of each resource manager under load: make cuts ARGS='--cuts 100 --seed 7'
	@$(BIN)/python -m tests.blackout $(ARGS)

.PHONY: soak
soak: $(VENV)/.ready-test ## Simulate new seeds for so many seconds: make soak FOR=3600
	@$(BIN)/python -m tests.simulation --soak $(FOR)

.PHONY: bench
bench: $(VENV)/.ready-test ## The benchmarks, one after the other: make bench ARGS=--quick
	@for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name $(ARGS); done

.PHONY: docs
docs: $(VENV)/.ready-test ## Write the generated pages anew
	@$(BIN)/commitd openapi --output docs/reference/openapi.json
	COMMITD_REWRITE=1 $(PYTEST) -q tests/unit/coordinator/ledger/test_transitions.py tests/unit/coordinator/protocols/test_modes.py \
	    tests/unit/participant/test_branch.py tests/unit/participant/test_termination.py
	COMMITD_REWRITE=1 CI=1 $(PYTEST) -q tests/contract/test_resource_manager.py

.PHONY: failures
failures: $(VENV)/.ready ## Play every failure, and write the page on them anew: make failures SEEDS=200
	@drawn=$$(mktemp)
	trap "rm $$drawn" EXIT
	$(BIN)/commitd failures --seeds $(SEEDS) --markdown > $$drawn
	sed -i '/^<!-- drawn -->$$/q' docs/concepts/failures.md
	cat $$drawn >> docs/concepts/failures.md

.PHONY: lock
lock: $(VENV)/.ready ## Write uv.lock anew after a change of dependencies
	@$(BIN)/uv lock --no-python-downloads

.PHONY: clean
clean: ## Remove environments and caches
	@rm -rf $(VENV) $(VENV)-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ── The environment ──────────────────────────────────────────────────────────────────────────────────────────────

$(VENV)/.ready: pyproject.toml uv.lock | $(BIN)/uv
	@echo 'installing what commitd needs into $(VENV)'
	$(SYNC) --no-dev
	touch $@

$(VENV)/.ready-test: pyproject.toml uv.lock | $(BIN)/uv
	@echo 'installing what commitd and its tests need into $(VENV)'
	$(SYNC)
	touch $@ $(VENV)/.ready

# Debian and Ubuntu ship Python without ensurepip, which venv needs; it is in the package python3.N-venv.
$(BIN)/uv:
	@python=
	for name in $(PYTHON) python3 python3.13 python3.12 python3.11; do
	    if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$name; break; fi
	done
	if [ -z "$$python" ]; then
	    echo 'commitd needs Python 3.11 or newer: install it, or name it: make PYTHON=/path/to/python3 ...' >&2
	    exit 1
	fi
	if ! "$$python" -c 'import ensurepip' 2>/dev/null; then
	    package=$$("$$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
	    root=
	    if [ "$$(id -u)" != 0 ]; then root=sudo; fi
	    if ! command -v apt-get >/dev/null || { [ -n "$$root" ] && ! command -v $$root >/dev/null; }; then
	        echo "$$python cannot make environments: install $$package (or your system's like), then repeat" >&2
	        exit 1
	    fi
	    echo "$$python cannot make environments yet: installing $$package"
	    $$root apt-get update -qq
	    $$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$$package"
	fi
	"$$python" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(UV)'
