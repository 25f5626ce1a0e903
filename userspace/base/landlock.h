/* SPDX-License-Identifier: MIT */
/*
 * Takes the file system away from a thread: landlock(7), Linux 5.13. A guard against code that is
 * talked into opening a file, a key for example; whoever can run code of his own in a thread
 * reaches the memory of all of them.
 */
#ifndef LB_BASE_LANDLOCK_H
#define LB_BASE_LANDLOCK_H

/*
 * From now on the calling thread, and threads it starts, can open no file for reading, writing or
 * executing, list no directory, and make and remove none (EACCES). Descriptors that are open stay
 * what they are. Needs no_new_privs. 0 or -errno: -ENOSYS or -EOPNOTSUPP without Landlock, -EPERM
 * where a container forbids it.
 */
int lb_landlock_no_files(void);

#endif
