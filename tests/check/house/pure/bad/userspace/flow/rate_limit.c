/* SPDX-License-Identifier: MIT */
#include <sys/socket.h>

#include "base/clock.h"
#include "flow/session.h"
