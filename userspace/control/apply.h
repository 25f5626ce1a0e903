/* SPDX-License-Identifier: MIT */
/*
 * Brings another configuration into force while flows live: rules added, removed, changed. All or
 * nothing: what may fail (reading, names, listeners, memory) is done first and leaves no trace when
 * it does; then everything changes, and nothing of it can fail.
 *
 *   read and judge   control/difference   what would change, and may it?
 *   prepare          names, listeners, pools of new rules
 *   commit           backends, then listeners, then what is gone
 *
 * Main thread, if nothing else is said.
 */
#ifndef LB_CONTROL_APPLY_H
#define LB_CONTROL_APPLY_H

#include "control/service.h"

/*
 * Reads <path> and brings it into force. What has changed is in the log; so is what was wrong, with
 * file, line and column where there is one. 0; -EINVAL: not acceptable; or what the system said.
 * Blocks while new names are looked up.
 */
int lb_apply_file(struct lb_service *s, const char *path);

/*
 * What lb_apply_file() would change, for people, and what would keep it from that as far as it can
 * be told without trying: names are not looked up, nothing is bound. 0, or as above. Any thread.
 */
int lb_apply_explain(struct lb_service *s, const char *path, FILE *out);

#endif
