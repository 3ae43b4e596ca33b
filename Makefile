# Every target is a line or two; what is longer is a script.
# On a fresh Debian 12 or 13 machine with Rust and root, each of them installs what it needs.

SHELL := /bin/bash
CARGO ?= cargo
ARGS ?=
PREFIX ?= /usr/local
DESTDIR ?=
# systemd reads this directory whatever the prefix is.
UNITDIR ?= /etc/systemd/system
# Tests with servers wait more than they compute: more of them at a time than there are processors.
export RUST_TEST_THREADS ?= 4
# The laws are tried on the same random lives each time; `make laws` tries others.
export PROPTEST_RNG_SEED ?= 20261121
TARGET_DIR = $(or $(CARGO_TARGET_DIR),target)
UNITS = $(addprefix contrib/systemd/,stapes-replicate@.service stapes-replicate@.timer stapes-backup@.service stapes-backup@.timer)

.DEFAULT_GOAL := help
.PHONY: help setup build run lint unit laws test test-incus7 cover demo picture bench-replicate bench-backup bench-repo install clean-lab

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

setup: ## install what tests and demo need: Incus 6.0 LTS and its tools
	scripts/setup.sh

build: ## build the program for use
	$(CARGO) build --release --locked -p stapes

run: ## run the program: make run ARGS='replicate --dry-run'
	$(CARGO) run --locked -q -p stapes -- $(ARGS)

lint: ## formatting, clippy, documentation, scripts, licences and sources of dependencies
	scripts/lint.sh

unit: ## the fast tests, without servers
	$(CARGO) test --workspace --exclude stapes-testing --locked --lib --bins

laws: ## the laws of planner, retention and importer, on new and more random input
	env -u PROPTEST_RNG_SEED PROPTEST_CASES=$(or $(CASES),2000) $(CARGO) test -p stapes-core --locked --lib

test: setup ## everything, with private Incus servers of this machine's version
	$(CARGO) test --workspace --locked --no-fail-fast

test-incus7: ## the tests with servers again, on Incus 7.0 LTS
	scripts/setup.sh && scripts/setup.sh --incus7
	STAPES_TEST_INCUS=7 $(CARGO) test --workspace --exclude stapes-store --locked --no-fail-fast --test '*'

cover: setup ## line coverage of the program; fails under 80 %
	scripts/cover.sh

demo: ## watch two private servers being onboarded, replicated, backed up, restored and compared
	demo/run.sh

picture: ## make the pictures below docs anew from a run of the demo
	demo/run.sh --picture docs

bench-replicate: ## one item at a time against the default, and what it costs
	scripts/bench-replicate.sh

bench-backup: ## backup and restore side by side with incus export and import; INCUS7=1 for Incus 7.0
	scripts/bench-backup.sh

bench-repo: ## restic repositories side by side with restic, borg, tar and cp; an unchanged container
	scripts/bench/repo.sh && scripts/bench/repo-instance.sh

install: ## install program and systemd units below DESTDIR, PREFIX and UNITDIR
	@test -x $(TARGET_DIR)/release/stapes || { echo 'run `make build` first' >&2; exit 1; }
	install -D -m 0755 $(TARGET_DIR)/release/stapes $(DESTDIR)$(PREFIX)/bin/stapes
	install -d $(DESTDIR)$(UNITDIR)
	for unit in $(UNITS); do sed "s|/usr/local/bin|$(PREFIX)/bin|" $$unit >$(DESTDIR)$(UNITDIR)/$${unit##*/} && \
	  chmod 0644 $(DESTDIR)$(UNITDIR)/$${unit##*/} || exit; done

clean-lab: ## remove what killed test servers left, and the Incus 7 tree
	scripts/clean-lab.sh
