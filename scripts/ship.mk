# SPDX-License-Identifier: MIT
#
# What is given to others: the Debian package and the image for containers. docs/install.md.

.PHONY: deb deb-test
deb: ## build the Debian package into build/deb/, lintian has nothing to say
	@scripts/install-deps --deb
	@LB_BUILD=$(O) scripts/deb
deb-test: ## install, run, upgrade and purge the package in a chroot of Debian (root)
	@scripts/install-deps --deb
	+@$(MAKE) --no-print-directory O=$(O) all
	@LB_BUILD=$(O) scripts/deb-test
