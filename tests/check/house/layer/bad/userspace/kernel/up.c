/* SPDX-License-Identifier: MIT */
#include "../flow/accept.h"
