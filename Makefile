# The commands of the repository. Each is a script that can be run by itself as well.
.PHONY: help demo test lint soak fuzz bench
.DEFAULT_GOAL := help

help:
	@echo 'make demo    from a deploy event to a running container, on this machine (KEEP=1 leaves it running)'
	@echo 'make test    the whole suite against real services'
	@echo 'make lint    formatter, clippy, dependency rules, scripts, systemd units'
	@echo 'make soak    faults under load, two minutes of them (SECONDS=<length>)'
	@echo 'make fuzz    looks for inputs that break what is read from strangers (SECONDS=<length of each>, ONLY=<name> for some)'
	@echo 'make bench   all figures beside their goals and peers (ONLY=<name> for some)'
	@echo
	@echo 'Each sets up what it needs first: from Debian packages, as root or by sudo, saying what and why.'

demo:
	@scripts/demo

test:
	@scripts/test

lint:
	@scripts/lint

soak:
	@scripts/soak

fuzz:
	@scripts/fuzz

bench:
	@scripts/bench
