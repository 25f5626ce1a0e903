# SPDX-License-Identifier: MIT
#
# `make vmtest`: what is built, under the kernels of Debian 12 (6.1 and 6.12). Needs root; emulated,
# where there is no usable /dev/kvm, it takes long.

VMTEST_ARGS ?=

.PHONY: vmtest vmtest-ktls
vmtest: ## unit, BPF and some end-to-end tests on other kernels, under qemu (VMTEST_ARGS=--help)
	@scripts/install-deps --test --vm
	+@$(MAKE) --no-print-directory O=$(O) all tests
	@LB_BUILD=$(O) $(PYTHON) -B vmtest/run.py $(VMTEST_ARGS)
vmtest-ktls: ## the same kernels seal what is sent over TLS: end-to-end tests that must not notice
	@$(MAKE) --no-print-directory vmtest VMTEST_ARGS='--ktls $(VMTEST_ARGS)'
