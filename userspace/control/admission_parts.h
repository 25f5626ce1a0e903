/* SPDX-License-Identifier: MIT */
/* What the files of admission.h share; nobody else includes it. */
#ifndef LB_CONTROL_ADMISSION_PARTS_H
#define LB_CONTROL_ADMISSION_PARTS_H

#include "control/admission.h"

bool admission_has_lists(const struct lb_rule_config *c);
/* The new rates are in force; in <c> is what nobody needs any more. */
void admission_commit_rate(struct lb_rule *rule, const struct lb_rule_config *config,
			   struct lb_admission_change *c);

#endif
