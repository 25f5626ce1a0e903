/* SPDX-License-Identifier: MIT */
#include "base/addr.h"
#include "timer.h"
