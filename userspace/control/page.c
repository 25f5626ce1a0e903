/* SPDX-License-Identifier: MIT */
/* See page.h. Must never let a page of somebody else read ours, nor ours run what is not in it. */
#include "control/page.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include <openssl/evp.h>

#include "base/cleanup.h"

/* The Makefile knows that this file is made of that one. */
__asm__(".pushsection .rodata\n"
	".global lb_page_html_begin\n"
	"lb_page_html_begin:\n"
	".incbin \"userspace/control/page.html\"\n"
	".byte 0\n"
	".popsection\n");
extern const char lb_page_html_begin[];

#define SHA256_BYTES  32
#define SHA256_BASE64 45 /* with its NUL */

const char *lb_page_html(size_t *len)
{
	*len = strlen(lb_page_html_begin);
	return lb_page_html_begin;
}

/* --- policy ----------------------------------------------------------------------------------- */

/* What stands between <open> and <close>, which are there once. */
static int hash(const char *html, size_t len, const char *open, const char *close,
		char text[SHA256_BASE64])
{
	const char *begin = memmem(html, len, open, strlen(open)), *end;
	uint8_t digest[SHA256_BYTES];
	size_t rest;

	if (!begin)
		return -EINVAL;
	begin += strlen(open);
	rest = len - (size_t)(begin - html);
	end = memmem(begin, rest, close, strlen(close));
	if (!end || memmem(begin, rest, open, strlen(open)))
		return -EINVAL;
	if (!EVP_Digest(begin, (size_t)(end - begin), digest, NULL, EVP_sha256(), NULL))
		return -EINVAL;
	(void)EVP_EncodeBlock((unsigned char *)text, digest, SHA256_BYTES);
	return 0;
}

int lb_page_policy(const char *html, size_t len, char policy[LB_PAGE_POLICY_MAX])
{
	char style[SHA256_BASE64], script[SHA256_BASE64];

	if (hash(html, len, "<style>", "</style>", style) ||
	    hash(html, len, "<script>", "</script>", script))
		return -EINVAL;
	/* data: is for the icon, which is empty: else every browser asks for one. */
	(void)snprintf(policy, LB_PAGE_POLICY_MAX,
		       "default-src 'none'; style-src 'sha256-%s'; script-src 'sha256-%s'; "
		       "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
		       "frame-ancestors 'none'",
		       style, script);
	return 0;
}

/* --- host ------------------------------------------------------------------------------------- */

/* "" or ":" and digits. */
static bool is_port(const char *text)
{
	if (!*text)
		return true;
	return text[0] == ':' && text[1] && strspn(text + 1, "0123456789") == strlen(text + 1);
}

static bool is_address(int family, const char *text, size_t len)
{
	struct in6_addr addr;
	char host[INET6_ADDRSTRLEN];

	if (len >= sizeof(host))
		return false;
	memcpy(host, text, len);
	host[len] = '\0';
	return inet_pton(family, host, &addr) == 1;
}

bool lb_page_host_is_fine(const char *host)
{
	static const char name[] = "localhost";
	const char *end;

	if (!host)
		return false;
	if (*host == '[') {
		end = strchr(host, ']');
		return end && is_address(AF_INET6, host + 1, (size_t)(end - host - 1)) &&
		       is_port(end + 1);
	}
	end = host + strcspn(host, ":");
	if (!is_port(end))
		return false;
	if ((size_t)(end - host) == sizeof(name) - 1 && !strncasecmp(host, name, sizeof(name) - 1))
		return true;
	return is_address(AF_INET, host, (size_t)(end - host));
}
