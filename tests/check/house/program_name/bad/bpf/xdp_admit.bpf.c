// SPDX-License-Identifier: GPL-2.0-only OR MIT
SEC("xdp")
int admit_prog(struct xdp_md *ctx)
{
	return 2;
}
