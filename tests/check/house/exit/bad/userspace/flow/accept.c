/* SPDX-License-Identifier: MIT */
void f(void)
{
	if (g())
		exit(1);
	_exit (2);
}
