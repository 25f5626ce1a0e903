/* SPDX-License-Identifier: MIT */
/*
 * Which route of a rule a TLS client takes: by the name it asks for and, of routes that have the
 * same name, by the protocols it offers. An exact name comes before its wildcard, that before `*`;
 * among routes of one name the first one in the file that takes what is offered.
 *
 * Knows no descriptor, no session, no clock. Read-only once it is made: any thread.
 */
#ifndef LB_FLOW_SNI_H
#define LB_FLOW_SNI_H

#include <stdint.h>

#include "config/config.h"
#include "flow/client_hello.h"

struct lb_rule;
struct lb_sni;

/*
 * The routes of <config>, of which a copy is made; <targets> are the rules that they stand for, in
 * its order, borrowed. 0, *ret NULL when there are none; or -ENOMEM.
 */
int lb_sni_new(struct lb_sni **ret, const struct lb_rule_config *config,
	       const struct lb_rule *const *targets);
/* NULL inside is fine. */
void lb_sni_free(struct lb_sni **ps);

/* NULL: no route is for it. */
const struct lb_rule *lb_sni_find(const struct lb_sni *sni, const struct lb_client_hello *hello);

#endif
