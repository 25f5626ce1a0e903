/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <lb/flow.h>

#include "loop/loop.h"
