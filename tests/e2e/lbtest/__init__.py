# SPDX-License-Identifier: MIT
"""
What end-to-end tests stand on: namespaces (net), the peer program (peer), the load balancer under
test (daemon), flows through it (lane) and the state of the machine around it (machine).

Every wait has a bound, and every process dies with the test run.
"""
