# SPDX-License-Identifier: MIT
#
# layer4-lb as an image: only the daemon, lbctl and what they load. docs/install.md says how to run it.
#
#   docker build -t layer4-lb .
#   make image                  without a registry: the base is made by debootstrap
#
# The tag below names one day's state of Debian 12.
ARG BASE=docker.io/library/debian:bookworm-20250520-slim

FROM ${BASE} AS build
WORKDIR /src
# Only what this needs: another source file does not install everything again.
COPY scripts/install-deps scripts/
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libcap2-bin ncurses-base \
 && scripts/install-deps
COPY . .
RUN make -s O=/out && scripts/image-root /out /image

FROM scratch
COPY --from=build /image /
LABEL org.opencontainers.image.title="layer4-lb" \
      org.opencontainers.image.description="TCP load balancer with an eBPF dataplane" \
      org.opencontainers.image.licenses="MIT"
# Not root: the file of the daemon carries the capabilities that the container was given.
USER 65532:65532
EXPOSE 8000-20000 9091
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/usr/bin/lbctl", "status"]
ENTRYPOINT ["/usr/bin/layer4-lb"]
CMD ["--config", "/etc/layer4-lb/lb.yaml"]
