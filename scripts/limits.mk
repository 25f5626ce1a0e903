# SPDX-License-Identifier: MIT
#
# `make limits`: the tables of docs/limits.md. Needs root; takes seven minutes.

LIMITS_ARGS ?=

.PHONY: limits
limits: ## measure rates and bandwidth limits: target, measured, error (LIMITS_ARGS=--help)
	@scripts/install-deps --bench
	+@$(MAKE) --no-print-directory O=$(O) all
	@LB_BUILD=$(O) $(PYTHON) -B scripts/limits.py $(LIMITS_ARGS)
