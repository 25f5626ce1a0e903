/* SPDX-License-Identifier: MIT */
#include <stdint.h>
#include <time_units.h>

#include "flow/select.h"
