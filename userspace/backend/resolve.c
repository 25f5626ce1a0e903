/* SPDX-License-Identifier: MIT */
/* Decides which address a backend's name stands for. Must never be called by a worker. */
#include "backend/resolve.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>

int lb_resolve(const char *host, uint16_t port, struct lb_addr *ret)
{
	const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	struct addrinfo *list = NULL;
	char service[8];
	int err;

	snprintf(service, sizeof(service), "%u", port);
	err = getaddrinfo(host, service, &hints, &list);
	if (err)
		return err == EAI_MEMORY ? -ENOMEM : -EADDRNOTAVAIL;
	memset(ret, 0, sizeof(*ret));
	memcpy(ret, list->ai_addr, list->ai_addrlen);
	freeaddrinfo(list);
	return 0;
}
