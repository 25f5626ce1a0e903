/* SPDX-License-Identifier: MIT */
#include "control/page.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"

static void an_address_and_localhost_are_fine(void **state)
{
	static const char *const hosts[] = {"127.0.0.1", "127.0.0.1:9091", "10.1.2.3:80",
					    "[::1]",     "[::1]:9091",     "[fd00::1]:1",
					    "localhost", "LocalHost:9091", "localhost:80"};

	for (size_t i = 0; i < LB_ARRAY_SIZE(hosts); i++)
		if (!lb_page_host_is_fine(hosts[i]))
			fail_msg("%s", hosts[i]);
}

static void a_name_that_somebody_may_have_made_is_not(void **state)
{
	static const char *const hosts[] = {"",
					    ":80",
					    "evil.example",
					    "evil.example:9091",
					    "localhost.evil.example",
					    "evillocalhost",
					    "localhost.",
					    "127.0.0.1.evil.example",
					    "127.0.0.1:",
					    "127.0.0.1:x",
					    "127.0.0.1:80.evil.example",
					    "127.1",
					    "2130706433",
					    "0x7f.1",
					    "[::1",
					    "::1",
					    "[evil]:80",
					    "[::1].evil.example",
					    "[::1]x",
					    "[127.0.0.1]",
					    " 127.0.0.1",
					    "127.0.0.1 ",
					    "[fe80::1%25eth0]",
					    "1.2.3.4@evil.example"};

	for (size_t i = 0; i < LB_ARRAY_SIZE(hosts); i++)
		if (lb_page_host_is_fine(hosts[i]))
			fail_msg("%s", hosts[i]);
	assert_false(lb_page_host_is_fine(NULL));
}

static int policy(const char *html, char text[LB_PAGE_POLICY_MAX])
{
	return lb_page_policy(html, strlen(html), text);
}

static void a_policy_names_the_hashes_of_style_and_script(void **state)
{
	char text[LB_PAGE_POLICY_MAX];

	/* printf b | openssl dgst -sha256 -binary | base64, and of c */
	assert_int_equal(policy("a<style>b</style><script>c</script>", text), 0);
	assert_non_null(
		strstr(text, "style-src 'sha256-PiPoFgA5WUoziU9lZOGxNIu9egCI1CxKy3PurtWcAJ0=';"));
	assert_non_null(
		strstr(text, "script-src 'sha256-Ln0sA6lQeuJl7PW1NWiFpTOTogKdJBOUmXJloaJa78Y=';"));
	assert_memory_equal(text, "default-src 'none';", 19);
	assert_null(strstr(text, "unsafe"));
}

static void what_has_not_one_of_each_has_none(void **state)
{
	static const char *const odd[] = {
		"",
		"<style></style>",
		"<script></script>",
		"<style></style><script>",
		"<style></style><script></script><script></script>",
		"<style></style><style></style><script></script>",
	};
	char text[LB_PAGE_POLICY_MAX];

	for (size_t i = 0; i < LB_ARRAY_SIZE(odd); i++)
		assert_int_equal(policy(odd[i], text), -EINVAL);
}

/* What would let a name of lb.yaml become HTML, or ask somebody else, does not stand in it. */
static void the_page_puts_in_text_alone_and_asks_nobody_else(void **state)
{
	static const char *const words[] = {"innerHTML",      "outerHTML", "insertAdjacentHTML",
					    "document.write", "eval(",     "Function(",
					    "https:",         " src=",     "@import",
					    "url(",           "style=\"",  "onclick"};
	char text[LB_PAGE_POLICY_MAX];
	size_t len;
	const char *html = lb_page_html(&len);

	assert_true(len > 1000);
	assert_int_equal(html[len], '\0');
	assert_int_equal(strlen(html), len);
	assert_int_equal(lb_page_policy(html, len, text), 0);
	for (size_t i = 0; i < LB_ARRAY_SIZE(words); i++)
		if (strstr(html, words[i]))
			fail_msg("%s", words[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_address_and_localhost_are_fine),
		cmocka_unit_test(a_name_that_somebody_may_have_made_is_not),
		cmocka_unit_test(a_policy_names_the_hashes_of_style_and_script),
		cmocka_unit_test(what_has_not_one_of_each_has_none),
		cmocka_unit_test(the_page_puts_in_text_alone_and_asks_nobody_else),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
