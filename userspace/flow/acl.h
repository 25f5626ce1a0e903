/* SPDX-License-Identifier: MIT */
/*
 * A rule's access lists as one verdict per address: allowed when it is on allow_list, or that is
 * empty, and not on deny_list. Made once, then immutable: any thread may look.
 *
 * include/lb/admit.h says what the nodes mean; the programs search copies of the same.
 */
#ifndef LB_FLOW_ACL_H
#define LB_FLOW_ACL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <lb/admit.h>

#include "base/addr.h"
#include "config/prefix.h"

struct lb_acl;

/* 0, or -ENOMEM. <allow> and <deny> are not needed any more afterwards. */
int lb_acl_new(struct lb_acl **ret, const struct lb_prefix *allow, size_t allow_count,
	       const struct lb_prefix *deny, size_t deny_count);
/* NULL is fine. Nobody may use it any more. */
void lb_acl_free(struct lb_acl **acl);

/* Whether both say the same of every address. */
bool lb_acl_equal(const struct lb_acl *a, const struct lb_acl *b);

/* An IPv4-mapped address is judged as IPv4. */
bool lb_acl_allows(const struct lb_acl *acl, const struct lb_addr *client);

/* The nodes, at least one each; they live as long as <acl>. */
const struct lb_acl_v4_node *lb_acl_v4_nodes(const struct lb_acl *acl, uint32_t *count);
const struct lb_acl_v6_node *lb_acl_v6_nodes(const struct lb_acl *acl, uint32_t *count);

#endif
