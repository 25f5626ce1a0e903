/* SPDX-License-Identifier: MIT */
/*
 * Decides how the reference of lb.yaml reads. Everything about single keys comes from the table, so
 * that the page cannot say anything the program does not do.
 */
#include <string.h>

#include "config/schema.h"

static const char intro[] =
	"# Configuration\n"
	"\n"
	"<!-- Generated from userspace/config/schema.c; a unit test compares. -->\n"
	"\n"
	"`layer4-lb --config lb.yaml` reads one YAML file. `layer4-lb --check` says whether it is\n"
	"acceptable (exit status 0 or 1, messages as `file:line:column: key: what is wrong`), and\n"
	"`layer4-lb --print-config` prints it in canonical form with every default filled in.\n"
	"\n"
	"- Times are numbers of milliseconds, or numbers with a unit: `ms`, `s`, `min`, `h`, `d`.\n"
	"- Sizes are numbers of bytes, or numbers with a unit: `B`, `KiB`, `MiB`, `GiB`, `TiB`\n"
	"  (powers of 1024), `kB`, `MB`, `GB`, `TB` (powers of 1000).\n"
	"- Unknown and duplicate keys, values of the wrong type or out of range, two rules on one\n"
	"  address, a rule that points at itself and access list entries that are no addresses "
	"are\n"
	"  refused; nothing is ever guessed.\n"
	"- A required key must be there when its block is; but a block with `enabled: false` needs "
	"no\n"
	"  other key, and does nothing whatever it holds.\n"
	"- A key without a value is refused: write `[]` for an empty list, or leave the key out.\n"
	"\n"
	"The column \"in force\" says what a key does in this version: **yes**; **not yet**: it "
	"is\n"
	"read and checked, `--check` and the start warn, and it does nothing; **refuses to run**: "
	"the\n"
	"same, but somebody relies on it for protection, so the daemon does not start while the\n"
	"feature it asks for is missing. No key warns while it holds its default.\n";

static const char *status_name(enum lb_schema_status status)
{
	switch (status) {
	case LB_SCHEMA_NOT_YET:
		return "not yet";
	case LB_SCHEMA_PROTECTS:
		return "refuses to run";
	default:
		return "yes";
	}
}

static void print_default(const struct lb_schema_key *key, FILE *out)
{
	if (key->required)
		fputs("required", out);
	else if (key->def)
		fprintf(out, "`%s`", key->def);
	else if (key->nothing)
		fprintf(out, "`%s`", key->nothing);
	else if (key->otherwise)
		fputs(key->otherwise, out);
	else if (key->list)
		fputs("none", out);
	else
		fputs(key->type == LB_SCHEMA_BLOCK ? "see below" : "none", out);
}

static void print_row(const struct lb_schema_key *key, enum lb_schema_status status, FILE *out)
{
	char expected[192];

	fprintf(out, "| `%s` | ", key->name);
	if (key->list)
		fprintf(out, "list of %u to %u: ", key->items_min, key->items_max);
	fputs(lb_schema_value_expected(key, expected, sizeof(expected)), out);
	fputs(" | ", out);
	print_default(key, out);
	fprintf(out, " | %s", status_name(status));
	for (const struct lb_schema_word *w = key->words; w && w->word; w++) {
		if (w->stand_in)
			fprintf(out, "; `%s` not yet", w->word);
	}
	fprintf(out, " | %s |\n", key->help);
}

static void print_section(const struct lb_schema_block *block, const char *path,
			  enum lb_schema_status status, FILE *out)
{
	fprintf(out, "\n## %s%s%s\n\n", path[0] ? "`" : "Top level", path, path[0] ? "`" : "");
	fputs("| key | value | default | in force | meaning |\n", out);
	fputs("|---|---|---|---|---|\n", out);
	for (size_t i = 0; i < block->count; i++)
		print_row(&block->keys[i], lb_schema_stricter(status, block->keys[i].status), out);
}

void lb_schema_print_markdown(FILE *out)
{
	fputs(intro, out);
	lb_schema_each_block(print_section, out);
}
