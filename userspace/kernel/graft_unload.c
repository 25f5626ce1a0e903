/* SPDX-License-Identifier: MIT */
/*
 * graft_unload: `--unload`: takes away what daemons of an instance, of whatever version, left for
 * their flows: filters, then pins. It must never touch what is not ours by owner, place and name,
 * and it leaves the pins of sockmap alone.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kernel/graft_handle.h"
#include "kernel/libbpf_log.h"

/* Returns <err>. */
static int __attribute__((format(printf, 2, 3))) complain(int err, const char *fmt, ...)
{
	va_list args;

	fputs("layer4-lb: ", stderr);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	return err;
}

static void tell_filter(const char *ifname, uint32_t handle)
{
	printf("removed filter " LB_GRAFT_PROGRAM " (priority %u, handle 0x%x) from %s\n",
	       LB_GRAFT_PRIORITY, handle, ifname);
}

static int remove_filters(const char *name)
{
	int r = lb_graft_attach_sweep(lb_links_handle(name, 0), LB_LINKS_HANDLE_MASK, tell_filter);

	return r ? complain(r, "cannot remove the filters: %s", strerror(-r)) : 0;
}

/* <path> is for the reader only. */
static int remove_pins(int dir_fd, const char *path)
{
	struct lb_graft_pin_names names;
	char note[192];
	int r;

	r = lb_graft_pin_names(dir_fd, &names, note, sizeof(note));
	if (r)
		return complain(r, "%s: %s", path, note);
	/* lb_graft_meta first: what is left without it is no set of tables. */
	for (size_t i = names.count; i--;) {
		if (unlinkat(dir_fd, names.name[i], 0))
			return complain(-errno, "%s/%s: %s", path, names.name[i], strerror(errno));
		printf("removed pin %s/%s\n", path, names.name[i]);
	}
	return 0;
}

static int remove_aside(int dir_fd, const char *path, uint32_t abi)
{
	LB_AUTO_CLOSE int fd = -1;
	char name[16], sub[160], note[192];
	int r;

	lb_graft_pin_abi_name(abi, name);
	snprintf(sub, sizeof(sub), "%s/%s", path, name);
	r = lb_pin_dir_open(dir_fd, name, false, &fd, note, sizeof(note));
	if (r)
		return complain(r, "%s: %s", path, note);
	r = remove_pins(fd, sub);
	if (!r)
		unlinkat(dir_fd, name, AT_REMOVEDIR);
	return r;
}

static int remove_all_aside(int dir_fd, const char *path)
{
	uint32_t found[LB_GRAFT_FOREIGN_MAX * 2];
	LB_AUTO_CLOSE int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *d;
	size_t count = 0;
	int r = 0, one;

	if (!dir)
		return complain(-errno, "%s: %s", path, strerror(errno));
	(void)LB_TAKE_FD(fd);
	while ((d = readdir(dir)) && count < LB_ARRAY_SIZE(found)) {
		found[count] = lb_graft_pin_abi_of(d->d_name);
		count += found[count] != 0;
	}
	closedir(dir);
	while (count--) {
		one = remove_aside(dir_fd, path, found[count]);
		r = r ? r : one;
	}
	return r;
}

static int remove_all_pins(const struct lb_graft_pin *pin)
{
	char path[128];
	int r, aside;

	if (pin->dir_fd < 0)
		return 0;
	snprintf(path, sizeof(path), LB_PIN_ROOT "/%s", pin->name);
	r = remove_pins(pin->dir_fd, path);
	aside = remove_all_aside(pin->dir_fd, path);
	/* Unless somebody else keeps something there. */
	unlinkat(pin->root_fd, pin->name, AT_REMOVEDIR);
	return r ? r : aside;
}

int lb_graft_table_unload(const char *instance)
{
	char name[LB_PIN_NAME_MAX], note[192];
	struct lb_graft_pin pin;
	int r;

	lb_libbpf_log_start();
	if (lb_pin_name(instance, name))
		return complain(-EINVAL, "an instance name has letters, digits, '-' and '_'");
	r = lb_graft_pin_open(&pin, name, note, sizeof(note));
	if (r)
		complain(r, LB_PIN_ROOT "/%s: %s", name, note);
	else
		r = remove_filters(name);
	/* While a filter is left, so are the tables it works on. */
	if (!r)
		r = remove_all_pins(&pin);
	lb_graft_pin_close(&pin);
	return r;
}
