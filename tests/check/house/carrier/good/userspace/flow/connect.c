/* SPDX-License-Identifier: MIT */
#include "flow/session.h"
