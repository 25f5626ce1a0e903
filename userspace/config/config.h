/* SPDX-License-Identifier: MIT */
/*
 * The configuration as plain immutable structs: what lb.yaml says, with defaults filled in. One
 * struct per YAML block; field names are the YAML keys, and docs/configuration.md explains each.
 * Read-only after lb_config_load(); any thread may read.
 *
 * Optional strings are NULL when they are not given. Addresses that are "off" have the family
 * AF_UNSPEC. Every list has its length in <list>_count and is NULL when that is 0.
 */
#ifndef LB_CONFIG_CONFIG_H
#define LB_CONFIG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/addr.h"
#include "base/log.h"
#include "config/config_notices.h"
#include "config/prefix.h"
#include "config/prefix_file.h"

struct lb_yaml_node;

enum lb_protocol {
	LB_PROTOCOL_TCP = 0,
};

enum lb_acceleration {
	LB_ACCELERATION_AUTO = 0,
	LB_ACCELERATION_GRAFT,
	LB_ACCELERATION_SOCKMAP,
	LB_ACCELERATION_RELAY,
};

enum lb_balance {
	LB_BALANCE_WEIGHTED_ROUND_ROBIN = 0,
	LB_BALANCE_LEAST_CONNECTIONS,
	LB_BALANCE_RANDOM_TWO,
	LB_BALANCE_SOURCE_HASH,
};

/* Where clients that are refused are dropped before the daemon hears of them. */
enum lb_admission {
	LB_ADMISSION_AUTO = 0, /* native XDP where it pays, else TC */
	LB_ADMISSION_NATIVE,
	LB_ADMISSION_GENERIC,
	LB_ADMISSION_TC,
	LB_ADMISSION_OFF,
};

enum lb_proxy_protocol {
	LB_PROXY_PROTOCOL_OFF = 0,
	LB_PROXY_PROTOCOL_V1,
	LB_PROXY_PROTOCOL_V2,
};

enum lb_tls_version {
	LB_TLS_VERSION_1_2 = 0,
	LB_TLS_VERSION_1_3,
};

/* Whether the kernel may seal what is sent over TLS. */
enum lb_ktls_use {
	LB_KTLS_AUTO = 0,
	LB_KTLS_OFF,
};

/* Whether a client must show a certificate when `client_ca` is given. */
enum lb_client_auth {
	LB_CLIENT_AUTH_REQUIRED = 0,
	LB_CLIENT_AUTH_OPTIONAL,
};

enum lb_health_check_protocol {
	LB_HEALTH_CHECK_TCP = 0,
	LB_HEALTH_CHECK_HTTP,
};

/* What a backend is before its first check has been answered. */
enum lb_health_check_initial {
	LB_HEALTH_CHECK_INITIAL_UP = 0,
	LB_HEALTH_CHECK_INITIAL_UNKNOWN,
};

/* What becomes of the flows of a backend that goes down. */
enum lb_on_down {
	LB_ON_DOWN_KEEP = 0,
	LB_ON_DOWN_RESET,
};

/* Of the addresses that a backend's name has. */
enum lb_resolve_addresses {
	LB_RESOLVE_ADDRESSES_FIRST = 0,
	LB_RESOLVE_ADDRESSES_ALL,
};

enum lb_resolve_family {
	LB_RESOLVE_FAMILY_ANY = 0,
	LB_RESOLVE_FAMILY_IPV4,
	LB_RESOLVE_FAMILY_IPV6,
};

/* How backends that are names become addresses. */
struct lb_resolve_config {
	enum lb_resolve_addresses addresses;
	enum lb_resolve_family family;
	uint64_t interval_ms; /* between two look-ups, at most */
	uint64_t timeout_ms;
	bool required; /* the daemon does not start without an address */
};

struct lb_backend_config {
	char *addr; /* as written: "host:port" */
	char *host; /* host part without brackets */
	uint16_t port;
	bool drain;
	uint32_t weight; /* 1..256 */
	bool backup;
	uint32_t max_connections; /* 0: no limit */
	char *tls_name;
};

struct lb_timeouts_config {
	uint64_t connect_ms;
	uint64_t idle_ms; /* 0: never */
	uint64_t handshake_ms;
	uint64_t max_lifetime_ms; /* 0: never */
	uint64_t drain_ms;
	uint64_t keepalive_ms;    /* 0: off */
	uint64_t user_timeout_ms; /* 0: the kernel's */
};

struct lb_connection_limits_config {
	bool cluster; /* they are those of all nodes together */
};

struct lb_queue_config {
	uint32_t max; /* 0: no queue */
	uint64_t timeout_ms;
};

/* Of what files held when they were judged. */
#define LB_FILES_DIGEST_BYTES 32u

struct lb_certificate_config {
	char *cert;
	char *key;
	char *ocsp; /* NULL: nothing is stapled */
};

struct lb_tls_config {
	bool enabled;
	char *cert; /* NULL when only <certificates> are given */
	char *key;
	char *ocsp;
	struct lb_certificate_config *certificates; /* chosen by SNI */
	size_t certificates_count;
	enum lb_tls_version min_version;
	char *ciphers; /* NULL: the built-in list */
	char *groups;  /* .. */
	char **alpn;
	size_t alpn_count;
	char *client_ca; /* NULL: clients need no certificate */
	char *client_crl;
	enum lb_client_auth client_auth;
	bool session_tickets;
	bool share_tickets; /* with the other nodes of the cluster */
	enum lb_ktls_use ktls;
	uint8_t files[LB_FILES_DIGEST_BYTES]; /* by lb_config_load_with()'s judge */
};

struct lb_backend_tls_config {
	bool enabled;
	bool ignore_verify;
	char *ca; /* NULL: the system's */
	char *crl;
	char *name; /* NULL: the backend's tls_name, else its host */
	char *client_cert;
	char *client_key;
	enum lb_ktls_use ktls;
	uint8_t files[LB_FILES_DIGEST_BYTES]; /* as above */
};

struct lb_rate_limit_config {
	bool enabled;
	uint32_t requests_per_second; /* new connections per client */
	uint32_t burst;
	uint32_t ipv6_prefix;              /* bits that make one IPv6 client */
	uint32_t rule_requests_per_second; /* of all clients together; 0: no limit */
	uint32_t rule_burst;
	bool cluster;
};

/* Bytes per second; 0: no limit. */
struct lb_bandwidth_config {
	uint64_t upload_per_sec;
	uint64_t download_per_sec;
};

struct lb_bandwidth_limit_config {
	bool enabled;
	struct lb_bandwidth_config client;  /* all connections of one client address together */
	struct lb_bandwidth_config backend; /* all connections to one backend together */
};

struct lb_status_range {
	uint16_t from, to; /* both included */
};

struct lb_health_check_config {
	bool enabled;
	uint64_t interval_ms;
	uint64_t timeout_ms;
	enum lb_health_check_protocol protocol;
	char *path;
	char *host;                            /* NULL: the backend's address */
	uint16_t port;                         /* 0: the backend's */
	struct lb_status_range *expect_status; /* none: 200-399 */
	size_t expect_status_count;
	enum lb_health_check_initial initial;
	uint32_t rise;
	uint32_t fall;
	bool tls;
	bool send_proxy;
	char *send;
	char *expect;
	uint64_t slow_start_ms; /* 0: full weight at once */
	bool share;             /* with the other nodes of the cluster */
};

struct lb_passive_health_config {
	bool enabled;
	uint32_t failures;
	uint64_t window_ms;
	uint64_t eject_ms;
	uint32_t max_ejected_percent;
};

/* Where clients of a rule go that ask for one of <names>. */
struct lb_sni_config {
	char *name; /* NULL: the first one of <names>, see lb_config_route_name() */
	char **names;
	size_t names_count;
	char **alpn; /* none: whatever they offer */
	size_t alpn_count;
	struct lb_backend_config *backends;
	size_t backends_count;
};

struct lb_rule_config {
	char *name;
	struct lb_addr listen;
	enum lb_protocol protocol;
	struct lb_backend_config *backends;
	size_t backends_count;
	struct lb_resolve_config resolve;
	enum lb_balance balance;
	enum lb_acceleration acceleration; /* the rule's own, else the top level's */
	bool same_host_bypass;             /* local hops skip TCP */
	struct lb_timeouts_config timeouts;
	uint32_t retries; /* further backends tried after the first one failed */
	struct lb_queue_config queue;
	struct lb_connection_limits_config connection_limits;
	uint32_t backend_connection_limit;       /* per backend; 0: no limit */
	uint32_t client_connection_limit;        /* per client address; 0: no limit */
	enum lb_proxy_protocol proxy_protocol;   /* what we send to backends */
	struct lb_prefix *accept_proxy_protocol; /* from whom we take a header */
	size_t accept_proxy_protocol_count;
	struct lb_tls_config tls;
	struct lb_backend_tls_config backend_tls;
	struct lb_sni_config *sni;
	size_t sni_count;
	struct lb_rate_limit_config rate_limit;
	struct lb_bandwidth_limit_config bandwidth_limit;
	struct lb_health_check_config health_check;
	struct lb_passive_health_config passive_health;
	enum lb_on_down on_down;
	struct lb_prefix *allow_list; /* none: everyone */
	size_t allow_list_count;
	struct lb_prefix *deny_list; /* wins over allow_list */
	size_t deny_list_count;
	char *allow_list_file;         /* NULL: none */
	char *deny_list_file;          /* .. */
	struct lb_prefixes allow_file; /* what was in them: from lb_config_load() alone */
	struct lb_prefixes deny_file;
	bool acl_cut_existing;           /* a reload resets flows of clients that it denies */
	const struct lb_rule_config *of; /* this is a route of that rule; NULL: it is a rule */
};

struct lb_access_log_config {
	char *path; /* NULL: off; "stdout", "stderr", "syslog" or a file */
	enum lb_log_format format;
	int facility; /* of the syslog: LOG_DAEMON and so on */
};

/* When `auto` grafts a flow, and what grafts may use. */
struct lb_graft_config {
	uint64_t after_bytes; /* moved, both ways together .. */
	uint64_t after_ms;    /* .. or alive for so long */
	uint32_t max_flows;
	uint16_t port_min, port_max; /* local ports towards backends */
};

struct lb_admin_config {
	char *socket; /* NULL: off */
	bool page;    /* the dashboard, at metrics_addr */
};

struct lb_cluster_config {
	bool enabled;
	char *name; /* NULL: the host's */
	struct lb_addr bind_addr;
	struct lb_addr advertise_addr; /* AF_UNSPEC: bind_addr */
	char **peers;                  /* "host:port" */
	size_t peers_count;
	uint32_t nodes; /* 0: as many as the peers */
	char *key_file;
	bool insecure;
};

struct lb_config {
	char *path; /* NULL when it came from memory */
	struct lb_rule_config *rules;
	size_t rules_count;
	/*
	 * The sni routes of all rules, in their order: each as a rule that has its own name and
	 * backends, listens nowhere, judges and limits nobody, and is as its rule in all else.
	 */
	struct lb_rule_config *routes;
	size_t routes_count;
	enum lb_log_level log_level;
	enum lb_log_format log_format;
	bool reload_on_change; /* of the file */
	uint32_t workers;      /* 0: one per core */
	enum lb_acceleration acceleration;
	char **interfaces; /* none: chosen automatically */
	size_t interfaces_count;
	enum lb_admission admission;
	struct lb_graft_config graft;
	struct lb_access_log_config access_log;
	struct lb_admin_config admin;
	bool metrics_enabled;
	struct lb_addr metrics_addr;
	struct lb_cluster_config cluster;
};

/*
 * Reads and judges the file at <path>. <notices> starts from zeros, belongs to the caller and gets
 * everything there is to say, on success (warnings) and on failure (at least one error, except when
 * memory runs out). When the file has no `workers`, the environment's NUM_ACCEPTORS counts.
 *
 * 0 with *ret to be freed by lb_config_free(); -EINVAL when the file is not acceptable; -ENOMEM; or
 * what reading it said (-ENOENT, -EISDIR, -EFBIG ..). *ret is untouched on failure. A configuration
 * that loads may still have to be refused: lb_config_notices_refuse(). Blocks; any thread.
 */
int lb_config_load(struct lb_config **ret, const char *path, struct lb_config_notices *notices);

/*
 * Judges what the file points at: certificates, keys. <root> is where everything stands. Adds to
 * <notices>, and says in <config> what it has seen.
 */
typedef void (*lb_config_judge)(struct lb_config *config, const struct lb_yaml_node *root,
				struct lb_config_notices *notices);
/* The same, and with <judge> after everything else was found acceptable. */
int lb_config_load_with(struct lb_config **ret, const char *path, lb_config_judge judge,
			struct lb_config_notices *notices);

/*
 * The same as lb_config_load() for bytes in memory, without looking at the environment. Pure: any
 * thread, any time.
 */
int lb_config_parse(struct lb_config **ret, const char *data, size_t size,
		    struct lb_config_notices *notices);

/*
 * Writes the canonical form: every key that is in effect, defaults filled in, numbers in base
 * units. Loading and printing it again gives the same text. Errors are those of <out>.
 */
void lb_config_print(const struct lb_config *config, FILE *out);

/* What tells the routes of a rule apart. */
const char *lb_config_route_name(const struct lb_sni_config *route);
/* "rule/route", as logs and metrics call it; free(3) it, NULL without memory. */
char *lb_config_route_title(const struct lb_rule_config *rule, const struct lb_sni_config *sni);
/* The rules and then the routes, by number. */
static inline size_t lb_config_places(const struct lb_config *config)
{
	return config->rules_count + config->routes_count;
}
const struct lb_rule_config *lb_config_place(const struct lb_config *config, size_t i);

/* NULL inside is fine. *config becomes NULL. Nobody may still be reading it. */
void lb_config_free(struct lb_config **config);

#endif
