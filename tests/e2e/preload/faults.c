/* SPDX-License-Identifier: MIT */
/*
 * faults.so, for LD_PRELOAD: makes the n-th call of one function fail from when it is told to, and
 * counts the blocks of the heap. $LB_FAULTS_FILE is the memory it shares with the test
 * (lbtest/faults.py knows its layout). Calls that a library makes of itself are not seen; those of
 * malloc are, because everybody calls the one that was found first.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum call {
	CALL_NONE,
	CALL_MALLOC,
	CALL_ACCEPT4,
	CALL_CONNECT,
	CALL_EPOLL_CTL,
	CALL_BPF,
	CALL_SETSOCKOPT,
};

struct control {
	_Atomic int32_t call; /* which one is to fail, */
	_Atomic int32_t left; /* in how many calls: 1 is the next; */
	_Atomic int32_t error;
	_Atomic int32_t fired; /* how many have */
	_Atomic int64_t blocks;
};

static struct control *control;
static __typeof__(accept4) *real_accept4;
static __typeof__(connect) *real_connect;
static __typeof__(epoll_ctl) *real_epoll_ctl;
static __typeof__(setsockopt) *real_setsockopt;
static __typeof__(syscall) *real_syscall;

__attribute__((constructor)) static void open_control(void)
{
	real_accept4 = (__typeof__(accept4) *)dlsym(RTLD_NEXT, "accept4");
	real_connect = (__typeof__(connect) *)dlsym(RTLD_NEXT, "connect");
	real_epoll_ctl = (__typeof__(epoll_ctl) *)dlsym(RTLD_NEXT, "epoll_ctl");
	real_setsockopt = (__typeof__(setsockopt) *)dlsym(RTLD_NEXT, "setsockopt");
	real_syscall = (__typeof__(syscall) *)dlsym(RTLD_NEXT, "syscall");

	const char *path = getenv("LB_FAULTS_FILE");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;

	if (fd < 0)
		abort();
	void *found = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	close(fd);
	if (found == MAP_FAILED)
		abort();
	control = found;
}

/* Whether this call is the one that fails; errno says so then. */
static bool fails(enum call call)
{
	if (!control || atomic_load(&control->call) != (int32_t)call ||
	    atomic_fetch_sub(&control->left, 1) != 1)
		return false;
	atomic_fetch_add(&control->fired, 1);
	errno = atomic_load(&control->error);
	return true;
}

int accept4(int fd, struct sockaddr *restrict addr, socklen_t *restrict len, int flags)
{
	return fails(CALL_ACCEPT4) ? -1 : real_accept4(fd, addr, len, flags);
}

int connect(int fd, const struct sockaddr *addr, socklen_t len)
{
	return fails(CALL_CONNECT) ? -1 : real_connect(fd, addr, len);
}

int epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
	return fails(CALL_EPOLL_CTL) ? -1 : real_epoll_ctl(epfd, op, fd, event);
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
	return fails(CALL_SETSOCKOPT) ? -1 : real_setsockopt(fd, level, name, value, len);
}

/* libbpf has no other way to bpf(2). */
long syscall(long number, ...)
{
	va_list args;
	long a[6];

	va_start(args, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(args, long);
	va_end(args);
	if (number == SYS_bpf && fails(CALL_BPF))
		return -1;
	return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* A sanitizer has a heap of its own. */
#ifndef LB_SANITIZED

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *block, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *block);

static void *counted(void *block)
{
	if (block && control)
		atomic_fetch_add_explicit(&control->blocks, 1, memory_order_relaxed);
	return block;
}

void *malloc(size_t size)
{
	return fails(CALL_MALLOC) ? NULL : counted(__libc_malloc(size));
}

void *calloc(size_t count, size_t size)
{
	return fails(CALL_MALLOC) ? NULL : counted(__libc_calloc(count, size));
}

void *realloc(void *block, size_t size)
{
	if (!block)
		return malloc(size);
	if (!size) {
		free(block);
		return NULL;
	}
	return fails(CALL_MALLOC) ? NULL : __libc_realloc(block, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
	return fails(CALL_MALLOC) ? NULL : counted(__libc_memalign(alignment, size));
}

int posix_memalign(void **ret, size_t alignment, size_t size)
{
	void *block = aligned_alloc(alignment, size);

	if (!block)
		return ENOMEM;
	*ret = block;
	return 0;
}

void free(void *block)
{
	if (block && control)
		atomic_fetch_sub_explicit(&control->blocks, 1, memory_order_relaxed);
	__libc_free(block);
}

#endif
