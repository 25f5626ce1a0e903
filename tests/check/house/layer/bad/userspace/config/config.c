/* SPDX-License-Identifier: MIT */
#include <lb/flow.h>
