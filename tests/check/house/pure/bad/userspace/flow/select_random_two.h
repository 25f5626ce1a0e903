/* SPDX-License-Identifier: MIT */
#include <netinet/tcp.h>
