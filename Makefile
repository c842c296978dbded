# middlewared. `make lab` starts two controllers here; `make test` runs every check there is.
# Needs python3 (3.11 or later) and make; everything else goes into .venv.

PYTHON ?= python3
BIN := .venv/bin
CHECK = $(BIN)/python scripts/check.py

.DEFAULT_GOAL := help
.PHONY: help lab venv venv-test test format lint types imports unit contract scenarios interruptions rewrite-scenarios simulator mutants lab-test torture lab-netns netns lab-vm test-vm soak bench bench-failover fix docs clean

help:            ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 26

lab: venv        ## start both controllers in the foreground; Ctrl-C ends everything
	@exec $(BIN)/middlewared lab up $(ARGS)

venv:            ## only the environment: .venv with the package installed editable
	@$(PYTHON) scripts/bootstrap.py

lab-netns:       ## the same in network namespaces, with keepalived, nftables and an iSCSI target for real; as root
	@$(PYTHON) scripts/bootstrap.py --netns
	@exec $(BIN)/middlewared lab up --netns $(ARGS)

lab-vm:          ## the same on two virtual machines, with a real kernel, ZFS and systemd; as root, needs qemu
	@$(PYTHON) scripts/bootstrap.py --vm
	@exec $(BIN)/middlewared lab up --vm $(ARGS)

venv-test:
	@$(PYTHON) scripts/bootstrap.py --test --netns

test: venv-test  ## everything: format, lint, types, imports, unit, contract and lab tests
	@exec $(CHECK)

format: venv-test    ## is the code formatted?
	@exec $(CHECK) format
lint: venv-test      ## ruff
	@exec $(CHECK) lint
types: venv-test     ## mypy --strict
	@exec $(CHECK) types
imports: venv-test   ## who may import whom
	@exec $(CHECK) imports
unit: venv-test      ## tests of single parts
	@exec $(CHECK) unit
contract: venv-test  ## schemas, reference documentation, house rules
	@exec $(CHECK) contract
scenarios: venv-test ## the transcripts of tests/scenarios
	@exec $(CHECK) scenarios
interruptions: venv-test  ## something dies after every action of every scenario: all of it, ten minutes
	@exec $(BIN)/python -m tests.scenarios --interrupt $(ARGS)
simulator: venv-test ## both controllers in virtual time: past failures, fixed seeds, new seeds
	@exec $(CHECK) simulator
lab-test: venv-test  ## tests against two running controllers
	@exec $(CHECK) lab
torture: venv-test   ## change the configuration while everything breaks, an hour; `make torture TORTURE_S=300 TORTURE_SEED=7`
	@TORTURE_S=$(or $(TORTURE_S),3600) TORTURE_SEED=$(or $(TORTURE_SEED),$(shell date +%s)) exec $(BIN)/pytest tests/lab/test_replication.py
netns: venv-test     ## keepalived, nftables and the lab's fault matrix in network namespaces; NETNS_RUNS=20 times each
	@exec $(CHECK) netns

test-vm: venv-test   ## power loss, freezes, cut cables and more on two virtual machines; as root, 20 minutes; `VM_SHELF=lio VM_PATHS=2 make test-vm`
	@$(PYTHON) scripts/bootstrap.py --vm
	@VM_ALL=1 VM_BUILD=1 exec $(BIN)/python -m pytest -s tests/vm $(ARGS)

rewrite-scenarios: venv-test  ## write the transcripts anew; look at the difference before you commit it
	@exec $(BIN)/python -m tests.scenarios --rewrite

soak: venv-test      ## the simulator with ever new seeds, until stopped: `make soak ARGS="--from 5000"`
	@exec $(BIN)/python -m tests.simulator --seeds 0 $(ARGS)

mutants: venv-test   ## does the simulator notice broken versions of failover? `make mutants ARGS=--search`
	@exec $(BIN)/python -m tests.mutants $(ARGS)

bench: venv          ## measure the budgets as ratios, three minutes: `make bench ARGS=takeover`
	@exec $(BIN)/python -m bench $(ARGS)

bench-failover: venv ## the client's gap on the virtual IP, ours beside keepalived alone, in network namespaces; as root
	@exec $(BIN)/python -m bench failover

fix: venv-test       ## format and repair what ruff can, render the reference documentation
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .
	@$(BIN)/python scripts/render_docs.py

docs: venv           ## render docs/ from the code: api.md, reasons.md, engine.md
	@$(BIN)/python scripts/render_docs.py

clean:           ## remove the environment and every cache
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
