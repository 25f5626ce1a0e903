/* SPDX-License-Identifier: MIT */
/* See listener.h. Must never close a socket whose clients have been promised service. */
#include "flow/listener.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "flow/accept.h"
#include "flow/keepalive.h"
#include "flow/segments.h"

struct lb_listener {
	struct lb_list node;
	const struct lb_rule *rule;
	int fd; /* before it is started; then -1 */
	struct lb_acceptor acceptor;
	struct lb_task release;
};

int lb_listener_new(struct lb_listener **ret, const struct lb_rule *rule, int fd)
{
	struct lb_listener *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->rule = rule;
	l->fd = fd;
	l->acceptor.watch.fd = -1;
	lb_list_init(&l->node);
	*ret = l;
	return 0;
}

void lb_listener_free(struct lb_listener **pl)
{
	struct lb_listener *l = *pl;

	if (!l)
		return;
	*pl = NULL;
	if (l->fd >= 0)
		close(l->fd);
	free(l);
}

int lb_listener_fd(const struct lb_listener *l)
{
	return l->fd;
}

void lb_listener_limit_segments(struct lb_listener *l, int mss)
{
	lb_segments_limit_clients(l->fd, mss);
}

int lb_listener_start(struct lb_listener **pl, struct lb_flow_env *env, struct lb_list *listeners)
{
	struct lb_listener *l = *pl;
	int err = lb_accept_start(&l->acceptor, env, l->rule, l->fd);

	if (err)
		return err;
	*pl = NULL;
	l->fd = -1;
	lb_list_append(listeners, &l->node);
	return 0;
}

static struct lb_listener *listener_of(struct lb_list *node)
{
	return lb_container_of(node, struct lb_listener, node);
}

static void release(struct lb_task *t)
{
	free(lb_container_of(t, struct lb_listener, release));
}

static void stop(struct lb_listener *l, bool drain)
{
	if (drain)
		lb_accept_drain(&l->acceptor);
	lb_accept_stop(&l->acceptor);
	lb_list_remove(&l->node);
	/* Events of this turn may still name it. */
	lb_loop_defer(l->acceptor.env->carrier.loop, &l->release, release);
}

void lb_listeners_stop(struct lb_list *listeners, bool drain)
{
	while (!lb_list_empty(listeners))
		stop(listener_of(listeners->next), drain);
}

void lb_listeners_visit(struct lb_list *listeners,
			void (*fn)(void *arg, const struct lb_rule *rule, int fd), void *arg)
{
	lb_list_for_each (node, listeners) {
		const struct lb_listener *l = listener_of(node);

		fn(arg, l->rule, l->acceptor.watch.fd);
	}
}

void lb_listeners_leave(struct lb_list *listeners,
			bool (*is_kept)(const struct lb_rule *rule, void *arg), void *arg)
{
	while (!lb_list_empty(listeners)) {
		struct lb_listener *l = listener_of(listeners->next);

		stop(l, !is_kept(l->rule, arg));
	}
}

void lb_listeners_hand(struct lb_list *listeners,
		       const struct lb_rule *(*heir)(const struct lb_rule *rule, void *arg),
		       void *arg)
{
	struct lb_list *node = listeners->next, *next;

	for (; node != listeners; node = next) {
		struct lb_listener *l = listener_of(node);
		const struct lb_rule *rule = heir(l->rule, arg);

		next = node->next;
		if (!rule) {
			stop(l, true);
			continue;
		}
		l->rule = l->acceptor.rule = rule;
		lb_keepalive_set(l->acceptor.watch.fd, &rule->config->timeouts);
	}
}
