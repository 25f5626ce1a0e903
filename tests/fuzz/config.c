/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as a configuration: they are refused with at least one error, or they load, and then
 * the canonical form loads without an error and prints itself. What loads must keep the promises
 * that other code relies on.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define demand(cond) ((cond) ? (void)0 : complain(#cond))

static void complain(const char *what)
{
	fprintf(stderr, "broken promise: %s\n", what);
	abort();
}

static char *print(const struct lb_config *config, size_t *size)
{
	char *text = NULL;
	FILE *out = open_memstream(&text, size);

	demand(out);
	lb_config_print(config, out);
	demand(fclose(out) == 0);
	return text;
}

static void check_backends(const struct lb_backend_config *backends, size_t count)
{
	demand(count > 0);
	for (size_t i = 0; i < count; i++) {
		demand(backends[i].addr && backends[i].host && backends[i].host[0]);
		demand(backends[i].port > 0);
		demand(backends[i].weight >= 1 && backends[i].weight <= 256);
	}
}

static void check_promises(const struct lb_config *config)
{
	demand(config->rules_count > 0);
	demand(config->workers <= 256);
	for (size_t i = 0; i < config->rules_count; i++) {
		const struct lb_rule_config *rule = &config->rules[i];

		demand(rule->name && rule->name[0]);
		demand(rule->listen.sa.sa_family == AF_INET ||
		       rule->listen.sa.sa_family == AF_INET6);
		demand(lb_addr_port(&rule->listen) > 0);
		demand(rule->timeouts.connect_ms > 0);
		demand(!rule->rate_limit.enabled || rule->rate_limit.burst > 0);
		demand(!rule->tls.enabled || rule->tls.cert || rule->tls.certificates_count);
		check_backends(rule->backends, rule->backends_count);
		for (size_t j = 0; j < rule->sni_count; j++)
			check_backends(rule->sni[j].backends, rule->sni[j].backends_count);
	}
}

/* The canonical form as it loads; the second print must be the first. */
static void check_fixed_point(const char *text, size_t size)
{
	struct lb_config_notices notices = {0};
	struct lb_config *config = NULL;
	size_t again_size = 0;
	char *again;

	if (lb_config_parse(&config, text, size, &notices)) {
		lb_config_notices_print(&notices, "canonical", stderr);
		fputs(text, stderr);
		complain("the canonical form loads");
	}
	again = print(config, &again_size);
	if (again_size != size || memcmp(again, text, size) != 0) {
		fprintf(stderr, "--- first\n%s--- second\n%s", text, again);
		complain("the canonical form is a fixed point");
	}
	free(again);
	lb_config_free(&config);
	lb_config_notices_fini(&notices);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct lb_config_notices notices = {0};
	struct lb_config *config = NULL;
	int r = lb_config_parse(&config, (const char *)data, size, &notices);

	if (r == 0) {
		size_t text_size = 0;
		char *text = print(config, &text_size);

		demand(notices.errors == 0);
		check_promises(config);
		check_fixed_point(text, text_size);
		free(text);
	} else {
		demand(r == -EINVAL);
		demand(!config);
		demand(notices.errors > 0 && notices.count > 0);
	}
	lb_config_free(&config);
	lb_config_notices_fini(&notices);
	return 0;
}
