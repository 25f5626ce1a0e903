/* SPDX-License-Identifier: MIT */
#include "loop/loop.h"
