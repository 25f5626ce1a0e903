/* SPDX-License-Identifier: MIT */
/* An array of the kernel's (BPF_F_MMAPABLE) as memory of ours. */
#ifndef LB_KERNEL_MAPPING_H
#define LB_KERNEL_MAPPING_H

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

/* The length of a mapping is the kernel's: whole pages. */
static inline size_t lb_mapping_bytes(size_t entries, size_t entry_bytes)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	return (entries * entry_bytes + page - 1) / page * page;
}

/* Map <fd> of <entries>; to be closed with the same numbers. 0, or -errno with *ret untouched. */
static inline int lb_mapping_open(int fd, size_t entries, size_t entry_bytes, void **ret)
{
	void *p = mmap(NULL, lb_mapping_bytes(entries, entry_bytes), PROT_READ | PROT_WRITE,
		       MAP_SHARED, fd, 0);

	if (p == MAP_FAILED)
		return -errno;
	*ret = p;
	return 0;
}

/* NULL is fine. */
static inline void lb_mapping_close(void *mapping, size_t entries, size_t entry_bytes)
{
	if (mapping)
		munmap(mapping, lb_mapping_bytes(entries, entry_bytes));
}

#endif
