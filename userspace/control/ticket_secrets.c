/* SPDX-License-Identifier: MIT */
/* See ticket_secrets.h. Must never leave a copy of a key behind. */
#include "control/ticket_secrets.h"

#include <errno.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "cluster/seal_keys.h"

_Static_assert(LB_SEAL_KEYS_MAX <= LB_TLS_SECRETS_MAX, "each key has its secret");

int lb_ticket_secrets_read(struct lb_tls_secrets *secrets, const char *path)
{
	static const uint8_t label[] = "layer4-lb session tickets";
	uint8_t derived[LB_SEAL_KEYS_MAX][LB_TLS_SECRET_BYTES];
	struct lb_seal_keys keys;
	char why[128];
	int err = path ? lb_seal_keys_read(path, &keys, why, sizeof(why)) : 0;

	if (!path || err)
		return err;
	for (uint32_t i = 0; i < keys.count && !err; i++)
		if (!HMAC(EVP_sha256(), keys.keys[i].bytes, LB_SEAL_KEY_BYTES, label, sizeof(label),
			  derived[i], NULL))
			err = -EIO;
	if (!err)
		err = lb_tls_secrets_set(secrets, derived, keys.count);
	lb_seal_keys_wipe(&keys);
	OPENSSL_cleanse(derived, sizeof(derived));
	return err;
}
