/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include "worker.h"
#include "../loop/loop.h"
