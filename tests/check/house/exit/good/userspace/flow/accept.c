/* SPDX-License-Identifier: MIT */
/* It must not exit(1). */
void f(void)
{
	on_exit_of(1); /* nor
	_exit(2) */
	puts("please exit(0) now");
	flow->exit(3);
}
