# SPDX-License-Identifier: MIT
#
# `make bench`: the report of docs/benchmarks.md, into $(O)/bench/. Needs root and a quiet machine.
#
#   make bench BENCH_ROUNDS=1 BENCH_SECONDS=2          a quick look
#   make bench BENCH_ARGS='--only relay,haproxy30 --workloads keepalive'
#   make bench BENCH_ARGS=--publish                    the report replaces the one in the document
#
# `make bench-tls`: the same of TLS termination, beside HAProxy. `make bench-clients`: what clients
# notice at fixed rates, at reloads and when backends go.

BENCH_ROUNDS  ?= 5
BENCH_SECONDS ?= 5
BENCH_ARGS    ?=

.PHONY: bench
bench: ## measure beside HAProxy, nginx and no load balancer (BENCH_ROUNDS, BENCH_SECONDS)
	@scripts/install-deps --bench
	+@$(MAKE) --no-print-directory O=$(O) all
	$(Q)$(PYTHON) -B scripts/bench.py --program $(O)/layer4-lb --out $(O)/bench \
		--rounds $(BENCH_ROUNDS) --seconds $(BENCH_SECONDS) $(BENCH_ARGS)

.PHONY: bench-tls
bench-tls: ## measure TLS termination beside HAProxy (BENCH_ROUNDS, BENCH_SECONDS)
	@scripts/install-deps --bench
	+@$(MAKE) --no-print-directory O=$(O) all $(O)/tests/e2e/tls_load
	$(Q)LB_BUILD=$(O) $(PYTHON) -B scripts/bench_tls.py --program $(O)/layer4-lb \
		--out $(O)/bench --rounds $(BENCH_ROUNDS) --seconds $(BENCH_SECONDS) $(BENCH_ARGS)

.PHONY: bench-clients
bench-clients: ## measure fixed rates, reloads, backends that go (BENCH_ROUNDS, BENCH_SECONDS)
	@scripts/install-deps --bench
	+@$(MAKE) --no-print-directory O=$(O) all $(O)/tests/e2e/paced_load
	$(Q)LB_BUILD=$(O) $(PYTHON) -B scripts/bench_clients.py --program $(O)/layer4-lb \
		--out $(O)/bench --rounds $(BENCH_ROUNDS) --seconds $(BENCH_SECONDS) $(BENCH_ARGS)
