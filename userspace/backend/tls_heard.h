/* SPDX-License-Identifier: MIT */
/* What a peer says over TLS besides payload; see lb_tls_context_watch(). Knows no OpenSSL. */
#ifndef LB_BACKEND_TLS_HEARD_H
#define LB_BACKEND_TLS_HEARD_H

#include <stdbool.h>
#include <stdint.h>

struct lb_tls_heard {
	uint32_t control; /* control messages since its last payload */
	bool wants_keys;  /* it has asked for our key to be changed (KeyUpdate of TLS 1.3) */
};

#endif
