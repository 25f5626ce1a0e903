/* SPDX-License-Identifier: MIT */
/* See seal_keys.h. Must never leave a copy of a key behind, nor say anything of one. */
#include "cluster/seal_keys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "base/cleanup.h"

#define FILE_MAX 16384u
#define DIGITS   (2 * LB_SEAL_KEY_BYTES)

__attribute__((format(printf, 4, 5))) static int refuse(int err, char *why, size_t size,
							const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(why, size, fmt, args);
	va_end(args);
	return err;
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static bool read_key(const char *text, struct lb_seal_key *ret)
{
	static const uint8_t label[] = "layer4-lb cluster key";
	uint8_t mac[32];

	for (unsigned int i = 0; i < LB_SEAL_KEY_BYTES; i++) {
		int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		ret->bytes[i] = (uint8_t)(high << 4 | low);
	}
	if (!HMAC(EVP_sha256(), ret->bytes, sizeof(ret->bytes), label, sizeof(label), mac, NULL))
		return false;
	memcpy(ret->id, mac, sizeof(ret->id));
	return true;
}

static const struct lb_seal_key *same_id(const struct lb_seal_keys *keys,
					 const struct lb_seal_key *key)
{
	for (uint32_t i = 0; i < keys->count; i++)
		if (!memcmp(keys->keys[i].id, key->id, sizeof(key->id)))
			return &keys->keys[i];
	return NULL;
}

static bool blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

static int read_line(const char *line, size_t len, unsigned int number, struct lb_seal_keys *keys,
		     char *why, size_t size)
{
	const char *comment = memchr(line, '#', len);

	if (comment)
		len = (size_t)(comment - line);
	while (len && blank(line[len - 1]))
		len--;
	while (len && blank(*line)) {
		line++;
		len--;
	}
	if (!len)
		return 0;
	if (keys->count == LB_SEAL_KEYS_MAX)
		return refuse(-EINVAL, why, size, "line %u: more than %u keys", number,
			      LB_SEAL_KEYS_MAX);
	if (len != DIGITS || !read_key(line, &keys->keys[keys->count]))
		return refuse(-EINVAL, why, size, "line %u: a key has %u hexadecimal digits",
			      number, DIGITS);
	if (same_id(keys, &keys->keys[keys->count]))
		return refuse(-EINVAL, why, size, "line %u: this key is there already", number);
	keys->count++;
	return 0;
}

int lb_seal_keys_parse(const char *text, size_t len, struct lb_seal_keys *ret, char *why,
		       size_t size)
{
	struct lb_seal_keys keys = {};
	unsigned int number = 1;
	int err = 0;

	for (const char *at = text, *end = text + len; at < end && !err; number++) {
		const char *stop = memchr(at, '\n', (size_t)(end - at));

		stop = stop ? stop : end;
		err = read_line(at, (size_t)(stop - at), number, &keys, why, size);
		at = stop + 1;
	}
	if (!err && !keys.count)
		err = refuse(-EINVAL, why, size, "there is no key in it");
	if (!err)
		*ret = keys;
	lb_seal_keys_wipe(&keys);
	return err;
}

static int out_of_reach(int fd, char *why, size_t size)
{
	struct stat st;

	if (fstat(fd, &st))
		return refuse(-errno, why, size, "%s", strerror(errno));
	if (!S_ISREG(st.st_mode))
		return refuse(-EINVAL, why, size, "not a regular file");
	if (st.st_uid != geteuid() && st.st_uid != 0)
		return refuse(-EPERM, why, size, "belongs to user %u", (unsigned int)st.st_uid);
	if (st.st_mode & (S_IRWXG | S_IRWXO))
		return refuse(-EPERM, why, size, "mode %04o lets others at the keys (chmod 600)",
			      (unsigned int)st.st_mode & 07777);
	return 0;
}

int lb_seal_keys_read(const char *path, struct lb_seal_keys *ret, char *why, size_t size)
{
	/* Not blocking: a pipe by that name must not hold the start up. */
	LB_AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	char text[FILE_MAX + 1];
	size_t len = 0;
	ssize_t n = 1;
	int err;

	if (fd < 0)
		return refuse(-errno, why, size, "%s", strerror(errno));
	err = out_of_reach(fd, why, size);
	if (err)
		return err;
	while (n > 0 && len < sizeof(text)) {
		n = read(fd, text + len, sizeof(text) - len);
		len += n > 0 ? (size_t)n : 0;
	}
	if (n < 0)
		err = refuse(-errno, why, size, "%s", strerror(errno));
	else if (len > FILE_MAX)
		err = refuse(-EINVAL, why, size, "more than %u bytes", FILE_MAX);
	else
		err = lb_seal_keys_parse(text, len, ret, why, size);
	OPENSSL_cleanse(text, sizeof(text));
	return err;
}

void lb_seal_keys_wipe(struct lb_seal_keys *keys)
{
	OPENSSL_cleanse(keys, sizeof(*keys));
}
