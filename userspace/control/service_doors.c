/* SPDX-License-Identifier: MIT */
/* The doors for people and programs: admin socket and metrics, ours or handed over. */
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "control/admin.h"
#include "control/exporter.h"
#include "control/metrics.h"
#include "control/overview.h"
#include "control/service_parts.h"
#include "control/takeover.h"

static bool is_ready(void *arg)
{
	return lb_service_is_ready(arg);
}

/* What the daemon before us listens with, if it is there that we want to listen. */
static int take_metrics(struct lb_service *s)
{
	LB_AUTO_CLOSE int fd = -1;
	struct lb_addr addr = {0};
	socklen_t len = sizeof(addr);

	if (!s->config->metrics_enabled)
		return -1;
	fd = lb_takeover_take(s->takeover, LB_TAKEOVER_METRICS);
	if (fd < 0 || getsockname(fd, &addr.sa, &len) ||
	    !lb_addr_equal(&addr, &s->config->metrics_addr))
		return -1;
	lb_takeover_keep_own(s->takeover, LB_TAKEOVER_METRICS);
	return LB_TAKE_FD(fd);
}

int lb_service_open_exporter(struct lb_service *s)
{
	const struct lb_exporter_opts opts = {
		.addr = &s->config->metrics_addr,
		.render = lb_metrics_render,
		.ready = is_ready,
		.overview = s->config->admin.page ? lb_overview_render : NULL,
		.arg = s,
		.fd = s->metrics_fd,
	};
	char addr[LB_ADDR_STR_MAX];
	int err;

	if (!s->config->metrics_enabled)
		return 0;
	s->metrics_fd = -1;
	err = lb_exporter_open(&s->exporter, &opts);
	if (err)
		lb_err("admin.metrics: cannot listen on %s: %s (`metrics: off` does without)",
		       lb_addr_format(&s->config->metrics_addr, addr), strerror(-err));
	return err;
}

/* Not yet: that one still answers there. */
int lb_service_prepare_exporter(struct lb_service *s)
{
	s->metrics_fd = take_metrics(s);
	return s->metrics_fd < 0 ? lb_service_open_exporter(s) : 0;
}

int lb_service_open_admin(struct lb_service *s)
{
	struct lb_admin_opts opts = {
		.socket = s->config->admin.socket,
		.instance = s->name,
		.service = s,
		.backends = s->backends,
		.envs = s->envs,
		.envs_count = s->workers_count,
	};
	int err;

	if (!opts.socket)
		return 0;
	opts.fd = lb_takeover_take(s->takeover, LB_TAKEOVER_ADMIN);
	err = lb_admin_open(&s->admin, &opts);
	if (!err && s->admin && lb_admin_is_shared(s->admin))
		lb_takeover_keep_own(s->takeover, LB_TAKEOVER_ADMIN);
	return err;
}
