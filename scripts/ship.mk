# SPDX-License-Identifier: MIT
#
# What is given to others: the Debian package and the image for containers. docs/install.md.

.PHONY: deb deb-test image image-test compose-test k8s-check
deb: ## build the Debian package into build/deb/, lintian has nothing to say
	@scripts/install-deps --deb
	@LB_BUILD=$(O) scripts/deb
deb-test: ## install, run, upgrade and purge the package in a chroot of Debian (root)
	@scripts/install-deps --deb
	+@$(MAKE) --no-print-directory O=$(O) all
	@LB_BUILD=$(O) scripts/deb-test
image: ## build the image for containers, without a registry (root)
	@scripts/install-deps --image
	@LB_BUILD=$(O) scripts/image
image-test: ## build it and run it: sockmap and graft in a container's namespaces (root)
	@scripts/install-deps --image
	+@$(MAKE) --no-print-directory O=$(O) all
	@LB_BUILD=$(O) scripts/image
	@LB_BUILD=$(O) scripts/image-test
compose-test: ## build it and run docker-compose.yml with a Docker daemon of its own (root)
	@scripts/install-deps --image --compose
	+@$(MAKE) --no-print-directory O=$(O) all
	@LB_BUILD=$(O) scripts/image
	@LB_BUILD=$(O) scripts/compose-test
k8s-check: ## compare the manifests of deploy/k8s with the types of Kubernetes (npm)
	@scripts/k8s-check
