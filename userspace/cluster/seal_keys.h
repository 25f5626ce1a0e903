/* SPDX-License-Identifier: MIT */
/*
 * The key file of a cluster: a key a line, 64 hexadecimal digits (`openssl rand -hex 32`); empty
 * lines and what follows a '#' do not count. The first key seals, all of them open, so a key is
 * replaced without a gap: add the new one behind the old on every node, then swap them, then take
 * the old one away.
 */
#ifndef LB_CLUSTER_SEAL_KEYS_H
#define LB_CLUSTER_SEAL_KEYS_H

#include <stddef.h>
#include <stdint.h>

#define LB_SEAL_KEYS_MAX  8u
#define LB_SEAL_KEY_BYTES 32u
#define LB_SEAL_ID_BYTES  4u

struct lb_seal_key {
	uint8_t id[LB_SEAL_ID_BYTES]; /* stands in every datagram; says nothing of the key */
	uint8_t bytes[LB_SEAL_KEY_BYTES];
};

struct lb_seal_keys {
	struct lb_seal_key keys[LB_SEAL_KEYS_MAX];
	uint32_t count;
};

/*
 * 0, or -errno with *ret untouched and the reason in <why>, one line without the path. The file
 * must be regular, belong to this user or to root, and be out of reach of everybody else
 * (-EPERM). -EINVAL: something in it is no key, is there twice, or there is none.
 */
int lb_seal_keys_read(const char *path, struct lb_seal_keys *ret, char *why, size_t size);
/* The same of a text. */
int lb_seal_keys_parse(const char *text, size_t len, struct lb_seal_keys *ret, char *why,
		       size_t size);
void lb_seal_keys_wipe(struct lb_seal_keys *keys);

#endif
