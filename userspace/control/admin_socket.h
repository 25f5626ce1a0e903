/* SPDX-License-Identifier: MIT */
/*
 * The unix socket of the admin interface as a file: mode 0600 from its first moment. One that a
 * dead process left is replaced; anything else in its place stays, and is an error.
 */
#ifndef LB_CONTROL_ADMIN_SOCKET_H
#define LB_CONTROL_ADMIN_SOCKET_H

#include <stdbool.h>
#include <sys/types.h>
#include <sys/un.h>

struct lb_admin_socket {
	struct sockaddr_un addr;
	int fd; /* listening, non-blocking; -1: none */
	dev_t dev;
	ino_t ino;   /* of the file: nobody else's is removed */
	bool shared; /* another daemon has it too: the file stays when we close it */
};

/*
 * Where an instance's is: what admin.socket says, but instances have their own folder when that is
 * the default. <instance> may be NULL. False: the path is too long.
 */
#define LB_ADMIN_PATH_MAX sizeof(((struct sockaddr_un *)0)->sun_path)
bool lb_admin_socket_path(const char *configured, const char *instance,
			  char path[LB_ADMIN_PATH_MAX]);
bool lb_admin_socket_is_default(const char *configured);

/*
 * <type>: SOCK_STREAM or SOCK_SEQPACKET.
 * 0; -EADDRINUSE when a living process listens there, -EEXIST when it is no socket, and what the
 * system says.
 */
int lb_admin_socket_open(struct lb_admin_socket *s, const char *path, int type);
/*
 * <fd> listens at <path>, and another daemon has it too: taken over on success, and shared. 0, or
 * -EINVAL: it does not.
 */
int lb_admin_socket_adopt(struct lb_admin_socket *s, const char *path, int type, int fd);
/* Removes the file if it is still ours, and ours alone. Harmless on one that is not open. */
void lb_admin_socket_close(struct lb_admin_socket *s);

#endif
