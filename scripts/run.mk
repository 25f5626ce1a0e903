# SPDX-License-Identifier: MIT
#
# `make run`: see scripts/run. RUN_ARGS are its options: make run RUN_ARGS=--once

RUN_ARGS ?=

.PHONY: run
run: ## install what is missing, build, show the load balancer at work on lb.yaml (root)
	@scripts/install-deps
	+@$(MAKE) --no-print-directory $(if $(filter 1,$(SAN)),SAN=1) O=$(O) all
	@LB_BUILD=$(O) scripts/run $(RUN_ARGS)
