/* SPDX-License-Identifier: MIT */
/*
 * See listen_fds.h. Decides which descriptors are listeners that we can use. Must never touch one
 * that was not given to this process.
 */
#include "base/listen_fds.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

#define FIRST_FD   3
#define FDS_MAX    4096
#define NAME_BYTES 64

struct entry {
	int fd; /* -1: it was asked for */
	bool listens;
	struct lb_addr addr; /* .. there */
	char name[NAME_BYTES];
};

struct lb_listen_fds {
	struct entry *entries;
	size_t count;
};

int lb_listen_fds_new(struct lb_listen_fds **ret)
{
	struct lb_listen_fds *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	*ret = l;
	return 0;
}

static bool has_option(int fd, int option, int wanted)
{
	socklen_t len = sizeof(int);
	int value = -1;

	return !getsockopt(fd, SOL_SOCKET, option, &value, &len) && value == wanted;
}

/* A TCP socket that listens: where. */
static bool listens_at(int fd, struct lb_addr *addr)
{
	socklen_t len = sizeof(*addr);

	memset(addr, 0, sizeof(*addr));
	return has_option(fd, SO_TYPE, SOCK_STREAM) && has_option(fd, SO_ACCEPTCONN, 1) &&
	       has_option(fd, SO_PROTOCOL, IPPROTO_TCP) && !getsockname(fd, &addr->sa, &len) &&
	       (addr->sa.sa_family == AF_INET || addr->sa.sa_family == AF_INET6);
}

int lb_listen_fds_add(struct lb_listen_fds *l, int fd, const char *name)
{
	struct entry *grown = realloc(l->entries, (l->count + 1) * sizeof(*grown)), *e;

	if (!grown)
		return -ENOMEM;
	l->entries = grown;
	e = &grown[l->count++];
	*e = (struct entry){.fd = fd};
	(void)snprintf(e->name, sizeof(e->name), "%s", name);
	e->listens = listens_at(fd, &e->addr);
	return 0;
}

/* 0: none, or not for us. */
static int count_inherited(void)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
	char *end;
	long n;

	if (!pid || !fds || strtol(pid, &end, 10) != (long)getpid() || *end)
		return 0;
	n = strtol(fds, &end, 10);
	return *end || n < 0 || n > FDS_MAX ? 0 : (int)n;
}

int lb_listen_fds_inherit(struct lb_listen_fds *l)
{
	int count = count_inherited(), err = 0;
	const char *given = getenv("LISTEN_FDNAMES");
	LB_AUTO_FREE char *names = strdup(given ? given : "");
	char *left = names;

	if (!names)
		return -ENOMEM;
	for (int i = 0; i < count && !err; i++) {
		const char *name = strsep(&left, ":");

		/* Not open: a lie of the environment, as good as nothing. */
		if (fcntl(FIRST_FD + i, F_SETFD, FD_CLOEXEC))
			continue;
		err = lb_listen_fds_add(l, FIRST_FD + i, name && *name ? name : "unknown");
	}
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	return err;
}

static struct entry *find(const struct lb_listen_fds *l, const struct lb_addr *addr)
{
	for (size_t i = 0; l && i < l->count; i++) {
		struct entry *e = &l->entries[i];

		if (e->fd >= 0 && e->listens && lb_addr_equal(&e->addr, addr))
			return e;
	}
	return NULL;
}

int lb_listen_fds_get(struct lb_listen_fds *l, const struct lb_addr *addr)
{
	struct entry *e = find(l, addr);

	return e ? LB_TAKE_FD(e->fd) : -ENOENT;
}

bool lb_listen_fds_has(const struct lb_listen_fds *l, const struct lb_addr *addr)
{
	return find(l, addr);
}

static void tell_unwanted(const struct entry *e)
{
	char addr[LB_ADDR_STR_MAX];

	if (e->listens)
		lb_warn("listener %s, handed in at %s: no rule listens there; closed", e->name,
			lb_addr_format(&e->addr, addr));
	else
		lb_warn("descriptor %s, handed in: no TCP socket that listens; closed", e->name);
}

void lb_listen_fds_free(struct lb_listen_fds **pl)
{
	struct lb_listen_fds *l = *pl;

	*pl = NULL;
	for (size_t i = 0; l && i < l->count; i++) {
		struct entry *e = &l->entries[i];

		if (e->fd < 0)
			continue;
		tell_unwanted(e);
		close(e->fd);
	}
	if (l)
		free(l->entries);
	free(l);
}
