/* SPDX-License-Identifier: MIT */
/* See takeover_rates.h. Must never give a client a token that it had spent. */
#include "control/takeover_rates.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "control/service_parts.h"
#include "control/takeover_wire.h"
#include "flow/rate_limit.h"

#define SEALS (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW)

static int memory_of(const struct lb_rate_limit_record *all, size_t count)
{
	LB_AUTO_CLOSE int fd = memfd_create("l4lb-rates", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	const char *from = (const char *)all;
	size_t left = count * sizeof(*all);

	while (fd >= 0 && left) {
		ssize_t n = write(fd, from, left);

		if (n <= 0)
			return -EIO;
		from += n;
		left -= (size_t)n;
	}
	if (fd < 0 || fcntl(fd, F_ADD_SEALS, SEALS))
		return -errno;
	return LB_TAKE_FD(fd);
}

/* Without memory for it the next daemon's clients begin with full buckets. */
static int send_rule(const struct lb_rule *rule, int to)
{
	LB_AUTO_FREE struct lb_rate_limit_record *all = NULL;
	struct lb_takeover_rule name = {{0}};
	LB_AUTO_CLOSE int fd = -1;
	size_t count = 0;

	if (strlen(rule->config->name) >= sizeof(name.name) ||
	    lb_rate_limit_save(rule->rate_limit, lb_clock_ns(), &all, &count) || !count)
		return 0;
	(void)snprintf(name.name, sizeof(name.name), "%s", rule->config->name);
	fd = memory_of(all, count);
	return fd < 0 ? 0 : lb_takeover_send(to, LB_TAKEOVER_RATES, &name, sizeof(name), &fd, 1);
}

int lb_takeover_rates_send(struct lb_service *s, int fd)
{
	int err = 0;

	for (size_t i = 0; i < s->rules_count && !err; i++)
		if (s->rules[i].config && s->rules[i].rate_limit && !lb_service_is_gone(s, i))
			err = send_rule(&s->rules[i], fd);
	return err;
}

static void take(struct lb_rate_limit *limit, int fd)
{
	const struct lb_rate_limit_record *all;
	uint64_t now = lb_clock_ns();
	struct stat st;
	size_t size;

	if ((fcntl(fd, F_GET_SEALS) & SEALS) != SEALS || fstat(fd, &st) || st.st_size <= 0 ||
	    st.st_size > LB_TAKEOVER_STATE_MAX)
		return;
	size = (size_t)st.st_size;
	all = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (all == MAP_FAILED)
		return;
	for (size_t i = 0; i < size / sizeof(*all); i++)
		lb_rate_limit_restore(limit, &all[i], now);
	munmap((void *)all, size);
}

void lb_takeover_rates_take(struct lb_service *s, const struct lb_takeover_message *m)
{
	struct lb_takeover_rule name;

	memcpy(&name, m->body, sizeof(name));
	name.name[sizeof(name.name) - 1] = '\0';
	for (size_t i = 0; i < s->rules_count; i++)
		if (s->rules[i].config && s->rules[i].rate_limit &&
		    !strcmp(s->rules[i].config->name, name.name))
			take(s->rules[i].rate_limit, m->fds[0]);
}
