/* SPDX-License-Identifier: MIT */
#include "cluster/seal_keys.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define KEY1 "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
#define KEY2 "FF0102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F"

static char why[128];

static int parsed(const char *text, struct lb_seal_keys *ret)
{
	return lb_seal_keys_parse(text, strlen(text), ret, why, sizeof(why));
}

static void keys_are_lines(void **state)
{
	struct lb_seal_keys k;

	assert_int_equal(parsed("# ours\n\n " KEY1 " # since May\r\n\t" KEY2, &k), 0);
	assert_int_equal(k.count, 2);
	assert_int_equal(k.keys[0].bytes[31], 0x1f);
	assert_int_equal(k.keys[1].bytes[0], 0xff);
	assert_memory_not_equal(k.keys[0].id, k.keys[1].id, LB_SEAL_ID_BYTES);
	lb_seal_keys_wipe(&k);
	assert_int_equal(k.keys[0].bytes[31], 0);
}

static void what_is_no_key_is_refused(void **state)
{
	struct lb_seal_keys k = {.count = 77};

	assert_int_equal(parsed("", &k), -EINVAL);
	assert_string_equal(why, "there is no key in it");
	assert_int_equal(parsed(KEY1 "\n" KEY1 "0\n", &k), -EINVAL);
	assert_string_equal(why, "line 2: a key has 64 hexadecimal digits");
	assert_int_equal(parsed(KEY1 "\n\n" KEY1, &k), -EINVAL);
	assert_string_equal(why, "line 3: this key is there already");
	assert_int_equal(parsed("0" KEY1 + 2, &k), -EINVAL);
	assert_int_equal(parsed("x" KEY1, &k), -EINVAL);
	assert_int_equal(k.count, 77);
}

static void no_more_than_the_most(void **state)
{
	char text[9 * 66 + 1] = "";
	struct lb_seal_keys k;

	for (int i = 0; i < 9; i++) {
		char line[67];

		snprintf(line, sizeof(line), "%x%s\n", i, &KEY1[1]);
		if (i == 8) {
			assert_int_equal(parsed(text, &k), 0);
			assert_int_equal(k.count, LB_SEAL_KEYS_MAX);
		}
		strcat(text, line);
	}
	assert_int_equal(parsed(text, &k), -EINVAL);
	assert_string_equal(why, "line 9: more than 8 keys");
}

static void a_file_others_can_read_is_refused(void **state)
{
	char path[] = "/tmp/lb-keys-XXXXXX";
	int fd = mkstemp(path);
	struct lb_seal_keys k;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, KEY1, strlen(KEY1)), strlen(KEY1));
	assert_int_equal(lb_seal_keys_read(path, &k, why, sizeof(why)), 0);
	assert_int_equal(k.count, 1);
	assert_int_equal(fchmod(fd, 0640), 0);
	assert_int_equal(lb_seal_keys_read(path, &k, why, sizeof(why)), -EPERM);
	assert_string_equal(why, "mode 0640 lets others at the keys (chmod 600)");
	assert_int_equal(fchmod(fd, 0400), 0);
	assert_int_equal(lb_seal_keys_read(path, &k, why, sizeof(why)), 0);
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	assert_int_equal(lb_seal_keys_read(path, &k, why, sizeof(why)), -EINVAL);
	assert_string_equal(why, "more than 16384 bytes");
	close(fd);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(lb_seal_keys_read(path, &k, why, sizeof(why)), -ENOENT);
	assert_int_equal(lb_seal_keys_read("/tmp", &k, why, sizeof(why)), -EINVAL);
	assert_string_equal(why, "not a regular file");
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(lb_seal_keys_read(path, &k, why, sizeof(why)), -EINVAL);
	assert_int_equal(unlink(path), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(keys_are_lines),
		cmocka_unit_test(what_is_no_key_is_refused),
		cmocka_unit_test(no_more_than_the_most),
		cmocka_unit_test(a_file_others_can_read_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
