/* SPDX-License-Identifier: MIT */
/*
 * Decides how the manual page lb.yaml(5) reads. As in the reference, everything about single keys
 * comes from the table.
 */
#include <string.h>

#include "config/schema.h"

static const char intro[] =
	".\\\" SPDX-License-Identifier: MIT\n"
	".\\\" Generated from userspace/config/schema.c; a unit test compares.\n"
	".TH LB.YAML 5 \"\" layer4-lb\n"
	".SH NAME\n"
	"lb.yaml \\- configuration of the TCP load balancer layer4-lb\n"
	".SH DESCRIPTION\n"
	".BR layer4-lb (8)\n"
	"reads one YAML file. Option\n"
	".B \\-\\-check\n"
	"says whether it is acceptable,\n"
	".B \\-\\-print\\-config\n"
	"prints it with every default filled in.\n"
	".PP\n"
	"Times are numbers of milliseconds, or numbers with a unit: ms, s, min, h, d.\n"
	"Sizes are numbers of bytes, or numbers with a unit: B, KiB, MiB, GiB, TiB (powers of\n"
	"1024), kB, MB, GB, TB (powers of 1000).\n"
	".PP\n"
	"Unknown and duplicate keys and values of the wrong type or out of range are refused. A\n"
	"key without a value is, too: write [] for an empty list, or leave the key out. A "
	"required\n"
	"key must be there when its block is; but a block with \\fBenabled: false\\fR needs no\n"
	"other key, and does nothing whatever it holds.\n"
	".SH EXAMPLE\n"
	".nf\n"
	"rules:\n"
	"  \\- name: web\n"
	"    listen: \"0.0.0.0:8080\"\n"
	"    backends:\n"
	"      \\- addr: \"10.0.0.11:80\"\n"
	"        weight: 5\n"
	"      \\- \"10.0.0.12:80\"\n"
	".fi\n"
	".SH KEYS\n";

static const char outro[] = ".SH FILES\n"
			    ".TP\n"
			    ".I /etc/layer4\\-lb/lb.yaml\n"
			    "What the service reads.\n"
			    ".SH SEE ALSO\n"
			    ".BR layer4-lb (8),\n"
			    ".BR lbctl (1)\n";

/* What `marks` stands between is bold; roff's own characters are taken literally. */
static void print_text(const char *text, FILE *out)
{
	bool bold = false;

	/* A line that begins with one of these would be a request. */
	if (*text == '.' || *text == '\'')
		fputs("\\&", out);
	for (; *text; text++) {
		if (*text == '`') {
			bold = !bold;
			fputs(bold ? "\\fB" : "\\fR", out);
		} else if (*text == '-') {
			fputs("\\-", out);
		} else if (*text == '\\') {
			fputs("\\e", out);
		} else {
			fputc(*text, out);
		}
	}
}

static void print_default(const struct lb_schema_key *key, FILE *out)
{
	const char *def = key->def ? key->def : key->nothing ? key->nothing : key->otherwise;

	if (key->required) {
		fputs("; required", out);
	} else if (def) {
		fputs("; default: ", out);
		print_text(def, out);
	}
}

static void print_key(const struct lb_schema_key *key, enum lb_schema_status status, FILE *out)
{
	char expected[192];

	fputs(".TP\n.B ", out);
	print_text(key->name, out);
	fputs("\n", out);
	print_text(key->help, out);
	fputs("\n.br\n", out);
	if (key->list)
		fprintf(out, "List of %u to %u: ", key->items_min, key->items_max);
	print_text(lb_schema_value_expected(key, expected, sizeof(expected)), out);
	print_default(key, out);
	fputs(".\n", out);
	if (status == LB_SCHEMA_NOT_YET)
		fputs("Not yet in force: it does nothing.\n", out);
	if (status == LB_SCHEMA_PROTECTS)
		fputs("Not yet in force: the daemon refuses to run with it.\n", out);
}

static void print_section(const struct lb_schema_block *block, const char *path,
			  enum lb_schema_status status, FILE *out)
{
	fputs(".SS ", out);
	print_text(path[0] ? path : "Top level", out);
	fputs("\n", out);
	for (size_t i = 0; i < block->count; i++)
		print_key(&block->keys[i], lb_schema_stricter(status, block->keys[i].status), out);
}

void lb_schema_print_man(FILE *out)
{
	fputs(intro, out);
	lb_schema_each_block(print_section, out);
	fputs(outro, out);
}
