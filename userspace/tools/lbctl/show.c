/* SPDX-License-Identifier: MIT */
/* Decides what people get to see of a reply. Must never fail for what an older daemon omits. */
#include "tools/lbctl/show.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/cleanup.h"
#include "tools/lbctl/table.h"
#include "tools/lbctl/word.h"

#define CELL_MAX 512

/* Of one row: the text of a cell. */
struct column {
	struct lb_table_column face;
	void (*cell)(const json_t *row, char text[CELL_MAX]);
};

/* --- values ----------------------------------------------------------------------------------- */

static uint64_t number_of(const json_t *o, const char *key)
{
	json_int_t n = json_integer_value(json_object_get(o, key));

	return n > 0 ? (uint64_t)n : 0;
}

static bool has(const json_t *o, const char *key)
{
	return json_is_integer(json_object_get(o, key));
}

static void put_string(const json_t *row, const char *key, char *text)
{
	(void)snprintf(text, CELL_MAX, "%s", lb_word_or_dash(row, key));
}

typedef const char *(*format_fn)(uint64_t n, char buf[LB_NUMBER_MAX]);

static void put_number(const json_t *row, const char *key, format_fn format, char *text)
{
	char buf[LB_NUMBER_MAX];

	(void)snprintf(text, CELL_MAX, "%s",
		       has(row, key) ? format(number_of(row, key), buf) : "-");
}

/* "a/b" */
static void put_both(const json_t *row, const char *a, const char *b, format_fn format, char *text)
{
	char first[LB_NUMBER_MAX], second[LB_NUMBER_MAX];

	if (has(row, a) && has(row, b))
		(void)snprintf(text, CELL_MAX, "%s/%s", format(number_of(row, a), first),
			       format(number_of(row, b), second));
	else
		(void)snprintf(text, CELL_MAX, "-");
}

/* --- tables ----------------------------------------------------------------------------------- */

#define COLUMNS_MAX 24

static int print_rows(const json_t *rows, const struct column *columns, size_t count, FILE *out)
{
	struct lb_table_column faces[COLUMNS_MAX];
	LB_AUTO(lb_table_free) struct lb_table *t = NULL;
	char text[CELL_MAX];
	const json_t *row;
	size_t index;
	int err;

	for (size_t i = 0; i < count; i++)
		faces[i] = columns[i].face;
	err = lb_table_new(&t, faces, count);
	if (err)
		return err;
	json_array_foreach(rows, index, row)
	{
		for (size_t i = 0; i < count; i++) {
			columns[i].cell(row, text);
			lb_table_add(t, text);
		}
	}
	return lb_table_print(t, out);
}

#define STRING_CELL(name, key)                          \
	static void name(const json_t *row, char *text) \
	{                                               \
		put_string(row, key, text);             \
	}
#define NUMBER_CELL(name, key, format)                  \
	static void name(const json_t *row, char *text) \
	{                                               \
		put_number(row, key, format, text);     \
	}
#define BOTH_CELL(name, a, b, format)                   \
	static void name(const json_t *row, char *text) \
	{                                               \
		put_both(row, a, b, format, text);      \
	}

STRING_CELL(cell_rule, "rule")
STRING_CELL(cell_backend, "backend")
NUMBER_CELL(cell_up, "bytes_up", lb_number_count)
NUMBER_CELL(cell_down, "bytes_down", lb_number_count)
NUMBER_CELL(cell_flows, "flows", lb_number_count)
NUMBER_CELL(cell_connections, "connections", lb_number_count)

/* --- status ----------------------------------------------------------------------------------- */

STRING_CELL(cell_listen, "listen")
NUMBER_CELL(cell_queued, "queued", lb_number_count)
NUMBER_CELL(cell_unserved, "unserved", lb_number_count)
BOTH_CELL(cell_eligible, "backends_eligible", "backends", lb_number_count)

static const struct column status_columns[] = {
	{{"RULE", false}, cell_rule},        {{"LISTEN", false}, cell_listen},
	{{"BACKENDS", true}, cell_eligible}, {{"FLOWS", true}, cell_flows},
	{{"QUEUED", true}, cell_queued},     {{"CONNECTIONS", true}, cell_connections},
	{{"UNSERVED", true}, cell_unserved}, {{"UP", true}, cell_up},
	{{"DOWN", true}, cell_down},
};

static void print_carrier(const json_t *reply, const char *name, FILE *out)
{
	const json_t *c = json_object_get(json_object_get(reply, "carriers"), name);

	if (!json_is_true(json_object_get(c, "in_service")))
		fprintf(out, "%s: not in service (%s)\n", name, lb_word_or_dash(c, "why"));
	else if (has(c, "flows_max"))
		fprintf(out, "%s: in service, %" PRIu64 " of %" PRIu64 " flows\n", name,
			number_of(c, "flows"), number_of(c, "flows_max"));
	else
		fprintf(out, "%s: in service\n", name);
}

static void print_predecessor(const json_t *before, FILE *out)
{
	char left[LB_NUMBER_MAX];

	if (before)
		fprintf(out,
			"%" PRIu64 " flows drain in the daemon before, pid %" PRIu64
			", version %s: cut in %s\n",
			number_of(before, "flows"), number_of(before, "pid"),
			lb_word_or_dash(before, "version"),
			lb_number_ms(number_of(before, "cut_in_ms"), left));
}

int lb_show_status(const json_t *reply, FILE *out)
{
	char uptime[LB_NUMBER_MAX];

	fprintf(out, "layer4-lb %s, pid %" PRIu64 ", %s for %s\n",
		lb_word_or_dash(reply, "version"), number_of(reply, "pid"),
		lb_word_or_dash(reply, "state"),
		lb_number_ms(number_of(reply, "uptime_ms"), uptime));
	fprintf(out, "%" PRIu64 " flows, %" PRIu64 " workers, log level %s\n",
		number_of(reply, "flows"), number_of(reply, "workers"),
		lb_word_or_dash(reply, "log_level"));
	print_predecessor(json_object_get(reply, "predecessor"), out);
	print_carrier(reply, "graft", out);
	print_carrier(reply, "sockmap", out);
	if (number_of(reply, "access_log_dropped"))
		fprintf(out, "access log: %" PRIu64 " lines lost\n",
			number_of(reply, "access_log_dropped"));
	fputc('\n', out);
	return print_rows(json_object_get(reply, "rules"), status_columns,
			  LB_ARRAY_SIZE(status_columns), out);
}

/* --- backends --------------------------------------------------------------------------------- */

STRING_CELL(cell_state, "state")
NUMBER_CELL(cell_failures, "connect_failures", lb_number_count)
BOTH_CELL(cell_checks, "check_failures", "checks", lb_number_count)

static void cell_weight(const json_t *row, char *text)
{
	put_number(row, "weight", lb_number_count, text);
	if (has(row, "share_percent") && number_of(row, "share_percent") < 100)
		(void)snprintf(text + strlen(text), CELL_MAX - strlen(text), " (%" PRIu64 "%%)",
			       number_of(row, "share_percent"));
}

static void cell_limit(const json_t *row, char *text)
{
	if (number_of(row, "limit"))
		put_number(row, "limit", lb_number_count, text);
	else
		(void)snprintf(text, CELL_MAX, "-");
}

/* "12 flows, 3 idle, 1.2M/s, cut in 25s, all gone in 40s" */
static void put_drain(const json_t *drain, char *text)
{
	char flows[LB_NUMBER_MAX], idle[LB_NUMBER_MAX], rate[LB_NUMBER_MAX], time[LB_NUMBER_MAX];
	size_t len;

	len = (size_t)snprintf(text, CELL_MAX, "%s flows, %s idle, %s/s",
			       lb_number_count(number_of(drain, "flows"), flows),
			       lb_number_count(number_of(drain, "idle"), idle),
			       lb_number_count(number_of(drain, "bytes_per_second"), rate));
	if (has(drain, "cut_in_ms") && len < CELL_MAX)
		len += (size_t)snprintf(text + len, CELL_MAX - len, ", cut in %s",
					lb_number_ms(number_of(drain, "cut_in_ms"), time));
	if (has(drain, "gone_in_ms") && len < CELL_MAX)
		(void)snprintf(text + len, CELL_MAX - len, ", all gone in %s",
			       lb_number_ms(number_of(drain, "gone_in_ms"), time));
}

static void cell_drain(const json_t *row, char *text)
{
	const json_t *drain = json_object_get(row, "drain");

	if (!json_is_object(drain))
		(void)snprintf(text, CELL_MAX, "-");
	else if (!number_of(drain, "flows"))
		(void)snprintf(text, CELL_MAX, "done");
	else
		put_drain(drain, text);
}

static void cell_checked_by(const json_t *row, char *text)
{
	const char *by = json_string_value(json_object_get(row, "checked_by"));

	(void)snprintf(text, CELL_MAX, "%s", by ? by : "-");
}

static const struct column backends_columns[] = {
	{{"RULE", false}, cell_rule},
	{{"BACKEND", false}, cell_backend},
	{{"STATE", false}, cell_state},
	{{"WEIGHT", true}, cell_weight},
	{{"FLOWS", true}, cell_flows},
	{{"LIMIT", true}, cell_limit},
	{{"CONNECTIONS", true}, cell_connections},
	{{"FAILED", true}, cell_failures},
	{{"CHECKS FAILED/ALL", true}, cell_checks},
	{{"CHECKED BY", false}, cell_checked_by},
	{{"UP", true}, cell_up},
	{{"DOWN", true}, cell_down},
	{{"DRAIN", false}, cell_drain},
};

int lb_show_backends(const json_t *reply, FILE *out)
{
	return print_rows(json_object_get(reply, "backends"), backends_columns,
			  LB_ARRAY_SIZE(backends_columns), out);
}

/* --- flows ------------------------------------------------------------------------------------ */

STRING_CELL(cell_client, "client")
STRING_CELL(cell_id, "id")
NUMBER_CELL(cell_age, "age_ms", lb_number_ms)
NUMBER_CELL(cell_idle, "idle_ms", lb_number_ms)
NUMBER_CELL(cell_rate_up, "rate_up", lb_number_count)
NUMBER_CELL(cell_rate_down, "rate_down", lb_number_count)
BOTH_CELL(cell_rtt, "rtt_client_us", "rtt_backend_us", lb_number_us)
BOTH_CELL(cell_retransmissions, "retransmissions_client", "retransmissions_backend",
	  lb_number_count)
BOTH_CELL(cell_backlog, "backlog_up", "backlog_down", lb_number_count)

/* Before it is carried: what it does instead. */
static void cell_carrier(const json_t *row, char *text)
{
	put_string(row, json_is_string(json_object_get(row, "carrier")) ? "carrier" : "state",
		   text);
}

static void cell_why(const json_t *row, char *text)
{
	put_string(row, "why", text);
	if (!strcmp(text, "none"))
		(void)snprintf(text, CELL_MAX, "-");
}

static const struct column flows_columns[] = {
	{{"CLIENT", false}, cell_client},
	{{"BACKEND", false}, cell_backend},
	{{"RULE", false}, cell_rule},
	{{"CARRIER", false}, cell_carrier},
	{{"WHY", false}, cell_why},
	{{"AGE", true}, cell_age},
	{{"IDLE", true}, cell_idle},
	{{"UP", true}, cell_up},
	{{"DOWN", true}, cell_down},
	{{"UP/S", true}, cell_rate_up},
	{{"DOWN/S", true}, cell_rate_down},
	{{"RTT", true}, cell_rtt},
	{{"RETR", true}, cell_retransmissions},
	{{"BACKLOG", true}, cell_backlog},
	{{"FLOW", false}, cell_id},
};

int lb_show_flows(const json_t *reply, FILE *out)
{
	int err = print_rows(json_object_get(reply, "flows"), flows_columns,
			     LB_ARRAY_SIZE(flows_columns), out);

	if (!err && number_of(reply, "matched") > number_of(reply, "shown"))
		fprintf(out, "%" PRIu64 " of %" PRIu64 " flows; --limit shows more\n",
			number_of(reply, "shown"), number_of(reply, "matched"));
	return err;
}

/* --- the rest --------------------------------------------------------------------------------- */

int lb_show_drain(const json_t *reply, FILE *out)
{
	char deadline[LB_NUMBER_MAX];

	fprintf(out, "%s of rule %s drains: %" PRIu64 " flows", lb_word_or_dash(reply, "backend"),
		lb_word_or_dash(reply, "rule"), number_of(reply, "flows"));
	if (has(reply, "deadline_ms"))
		fprintf(out, ", cut in %s\n",
			lb_number_ms(number_of(reply, "deadline_ms"), deadline));
	else
		fputs(", none of them is ever cut\n", out);
	return 0;
}

int lb_show_weight(const json_t *reply, FILE *out)
{
	fprintf(out, "%s of rule %s: weight %" PRIu64 " instead of %" PRIu64 "\n",
		lb_word_or_dash(reply, "backend"), lb_word_or_dash(reply, "rule"),
		number_of(reply, "weight"), number_of(reply, "before"));
	return 0;
}

int lb_show_log(const json_t *reply, FILE *out)
{
	fprintf(out, "log level %s instead of %s\n", lb_word_or_dash(reply, "level"),
		lb_word_or_dash(reply, "before"));
	return 0;
}

int lb_show_reload(const json_t *reply, FILE *out)
{
	fputs(lb_word_or_dash(reply, "changes"), out);
	if (json_is_true(json_object_get(reply, "applied")))
		fprintf(out, "in force: generation %" JSON_INTEGER_FORMAT "\n",
			json_integer_value(json_object_get(reply, "generation")));
	return 0;
}

int lb_show_upgrade(const json_t *reply, FILE *out)
{
	fprintf(out, "process %" PRIu64 " has taken over from %" PRIu64 " within %" PRIu64 " ms\n",
		number_of(reply, "pid"), number_of(reply, "before"), number_of(reply, "took_ms"));
	return 0;
}

/* --- cluster ---------------------------------------------------------------------------------- */

STRING_CELL(cell_addr, "addr")
STRING_CELL(cell_node_state, "state")
STRING_CELL(cell_version, "version")
STRING_CELL(cell_config, "config")
NUMBER_CELL(cell_since, "since_ms", lb_number_ms)
NUMBER_CELL(cell_node_rtt, "rtt_us", lb_number_us)

static void cell_node(const json_t *row, char *text)
{
	(void)snprintf(text, CELL_MAX, "%s%s", lb_word_or_dash(row, "node"),
		       json_is_true(json_object_get(row, "self")) ? " *" : "");
}

static const struct column cluster_columns[] = {
	{{"NODE", false}, cell_node},
	{{"ADDRESS", false}, cell_addr},
	{{"STATE", false}, cell_node_state},
	{{"SINCE", true}, cell_since},
	{{"RTT", true}, cell_node_rtt},
	{{"VERSION", false}, cell_version},
	{{"CONFIGURATION", false}, cell_config},
};

/* Connections, or connections a second. */
static void put_rate(const json_t *row, const char *key, char *text)
{
	double rate = json_real_value(json_object_get(row, key));

	(void)snprintf(text, CELL_MAX, "%.*f", rate < 10 && rate > 0, rate);
}

#define RATE_CELL(name, key)                            \
	static void name(const json_t *row, char *text) \
	{                                               \
		put_rate(row, key, text);               \
	}

STRING_CELL(cell_of, "of")

static void cell_whose(const json_t *row, char *text)
{
	if (json_object_get(row, "backend"))
		cell_backend(row, text);
	else
		cell_client(row, text);
}

RATE_CELL(cell_demand, "demand")
RATE_CELL(cell_share, "share")
RATE_CELL(cell_safe, "safe")
RATE_CELL(cell_lent, "lent")
RATE_CELL(cell_borrowed, "borrowed")
RATE_CELL(cell_overshoot, "overshoot")

static const struct column limit_columns[] = {
	{{"RULE", false}, cell_rule},
	{{"WHOSE", false}, cell_whose},
	{{"OF", false}, cell_of},
	{{"LIMIT", true}, cell_limit},
	{{"DEMAND", true}, cell_demand},
	{{"SHARE", true}, cell_share},
	{{"OWN", true}, cell_safe},
	{{"LENT", true}, cell_lent},
	{{"BORROWED", true}, cell_borrowed},
	{{"OVERSHOOT", true}, cell_overshoot},
};

static int print_limits(const json_t *reply, FILE *out)
{
	const json_t *shares = json_object_get(reply, "shares");
	const json_t *limits = json_object_get(reply, "limits");

	if (!json_array_size(limits))
		return 0;
	fprintf(out,
		"\nlimits are shared by %" PRIu64 " nodes; at most %.2f %% of each and %" PRIu64
		" connections are too much now\n",
		number_of(shares, "nodes"), (double)number_of(shares, "excess_ppm") / 10000,
		number_of(shares, "excess"));
	return print_rows(limits, limit_columns, LB_ARRAY_SIZE(limit_columns), out);
}

int lb_show_cluster(const json_t *reply, FILE *out)
{
	const json_t *all = json_object_get(reply, "cluster");
	int err;

	fprintf(out,
		"%" PRIu64 " nodes are there, %" PRIu64 " dead; %s; a suspect has %.1f s; "
		"%" PRIu64 " datagrams dropped\n",
		number_of(all, "alive"), number_of(all, "dead"),
		json_is_true(json_object_get(all, "sealed")) ? "sealed" : "INSECURE",
		(double)number_of(all, "suspicion_ms") / 1000, number_of(all, "dropped"));
	if (number_of(all, "twins"))
		fprintf(out, "another node has the name of this one\n");
	err = print_rows(json_object_get(reply, "members"), cluster_columns,
			 LB_ARRAY_SIZE(cluster_columns), out);
	return err ? err : print_limits(reply, out);
}

int lb_show_metrics(const json_t *reply, FILE *out)
{
	fputs(lb_word_or_dash(reply, "metrics"), out);
	return 0;
}

int lb_show_version(const json_t *reply, FILE *out)
{
	fprintf(out, "lbctl %s\nlayer4-lb %s\n", LB_VERSION, lb_word_or_dash(reply, "version"));
	return 0;
}

int lb_show_nothing(const json_t *reply, FILE *out)
{
	return 0;
}
