/* SPDX-License-Identifier: MIT */
#ifndef LB_BASE_REGULAR_FILE_H
#define LB_BASE_REGULAR_FILE_H

/*
 * Opens <path> for reading if it is a regular file: nobody waits for a pipe's other end, and what
 * was read is there once more. A descriptor, or -errno: -EISDIR for a directory, -ENOTSUP for what
 * is no file either.
 */
int lb_regular_file_open(const char *path);

#endif
