/* SPDX-License-Identifier: MIT */
/*
 * Decides which keys lb.yaml has, and nothing else: the one table behind reading, printing and the
 * documentation. Rows stand in the order of the canonical form. Code must never appear here that
 * treats one key differently from another; rules that join several keys are in config_check.c.
 */
#include "config/schema.h"

#include <stdlib.h>
#include <syslog.h>

#include "base/cleanup.h"
#include "config/config.h"

/* offsetof() that does not compile when the field is not what the row's type writes. */
#define CHECK(cond) (0 * sizeof(char[(cond) ? 1 : -1]))
#define FIELD(s, f, T)           \
	(offsetof(struct s, f) + \
	 CHECK(__builtin_types_compatible_p(__typeof__(((struct s *)0)->f), T)))

#define BOOL(s, f)     .type = LB_SCHEMA_BOOL, .offset = FIELD(s, f, bool)
#define NUMBER(s, f)   .type = LB_SCHEMA_NUMBER, .offset = FIELD(s, f, uint32_t)
#define PORT(s, f)     .type = LB_SCHEMA_PORT, .offset = FIELD(s, f, uint16_t)
#define MS(s, f)       .type = LB_SCHEMA_MS, .offset = FIELD(s, f, uint64_t)
#define BYTES(s, f)    .type = LB_SCHEMA_BYTES, .offset = FIELD(s, f, uint64_t)
#define STRING(s, f)   .type = LB_SCHEMA_STRING, .offset = FIELD(s, f, char *)
#define TEXT(s, f)     .type = LB_SCHEMA_TEXT, .offset = FIELD(s, f, char *)
#define ADDRESS(s, f)  .type = LB_SCHEMA_ADDRESS, .offset = FIELD(s, f, struct lb_addr)
#define BLOCK(s, f, b) .type = LB_SCHEMA_BLOCK, .offset = offsetof(struct s, f), .block = &(b)
/* A mapping whose fields are members of the enclosing struct. */
#define SAME_STRUCT(b) .type = LB_SCHEMA_BLOCK, .offset = 0, .block = &(b)
#define WORD(s, f, w)                         \
	.type = LB_SCHEMA_WORD, .words = (w), \
	.offset = offsetof(struct s, f) + CHECK(sizeof(((struct s *)0)->f) == sizeof(int))
#define LIST(s, f, T)                                                                          \
	.list = true, .offset = FIELD(s, f, T *), .count_offset = FIELD(s, f##_count, size_t), \
	.item_size = sizeof(T)
#define RANGE(lo, hi) .min = (lo), .max = (hi)
#define ITEMS(lo, hi) .items_min = (lo), .items_max = (hi)
#define KEYS(array)   .keys = (array), .count = LB_ARRAY_SIZE(array)

#define NOT_YET  .status = LB_SCHEMA_NOT_YET
#define PROTECTS .status = LB_SCHEMA_PROTECTS
#define REQUIRED .required = true

#define SECOND      1000ull
#define HOUR        (3600ull * SECOND)
#define DAY         (24ull * HOUR)
#define TIB         (1ull << 40)
#define PATH_BYTES  4095
#define ITEMS_ACL   262144
#define CONNECTIONS 100000000

static const struct lb_schema_word protocol_words[] = {
	{"tcp", LB_PROTOCOL_TCP},
	{0},
};

static const struct lb_schema_word acceleration_words[] = {
	{"auto", LB_ACCELERATION_AUTO},
	{"graft", LB_ACCELERATION_GRAFT},
	{"sockmap", LB_ACCELERATION_SOCKMAP},
	{"relay", LB_ACCELERATION_RELAY},
	{0},
};

static const struct lb_schema_word admission_words[] = {
	{"auto", LB_ADMISSION_AUTO},
	{"native", LB_ADMISSION_NATIVE},
	{"generic", LB_ADMISSION_GENERIC},
	{"tc", LB_ADMISSION_TC},
	{"off", LB_ADMISSION_OFF},
	{"false", LB_ADMISSION_OFF},
	{0},
};

static const struct lb_schema_word balance_words[] = {
	{"weighted_round_robin", LB_BALANCE_WEIGHTED_ROUND_ROBIN},
	{"least_connections", LB_BALANCE_LEAST_CONNECTIONS},
	{"random_two", LB_BALANCE_RANDOM_TWO},
	{"source_hash", LB_BALANCE_SOURCE_HASH},
	{0},
};

static const struct lb_schema_word proxy_protocol_words[] = {
	{"off", LB_PROXY_PROTOCOL_OFF}, {"false", LB_PROXY_PROTOCOL_OFF},
	{"v1", LB_PROXY_PROTOCOL_V1},   {"v2", LB_PROXY_PROTOCOL_V2},
	{"true", LB_PROXY_PROTOCOL_V2}, {0},
};

static const struct lb_schema_word tls_version_words[] = {
	{"1.2", LB_TLS_VERSION_1_2},
	{"1.3", LB_TLS_VERSION_1_3},
	{0},
};

static const struct lb_schema_word ktls_words[] = {
	{"auto", LB_KTLS_AUTO},
	{"off", LB_KTLS_OFF},
	{"false", LB_KTLS_OFF},
	{0},
};

static const struct lb_schema_word client_auth_words[] = {
	{"required", LB_CLIENT_AUTH_REQUIRED},
	{"optional", LB_CLIENT_AUTH_OPTIONAL},
	{0},
};

static const struct lb_schema_word health_check_words[] = {
	{"tcp", LB_HEALTH_CHECK_TCP},
	{"http", LB_HEALTH_CHECK_HTTP},
	{0},
};

static const struct lb_schema_word initial_words[] = {
	{"up", LB_HEALTH_CHECK_INITIAL_UP},
	{"unknown", LB_HEALTH_CHECK_INITIAL_UNKNOWN},
	{0},
};

static const struct lb_schema_word resolve_addresses_words[] = {
	{"first", LB_RESOLVE_ADDRESSES_FIRST},
	{"all", LB_RESOLVE_ADDRESSES_ALL},
	{0},
};

static const struct lb_schema_word resolve_family_words[] = {
	{"any", LB_RESOLVE_FAMILY_ANY},
	{"ipv4", LB_RESOLVE_FAMILY_IPV4},
	{"ipv6", LB_RESOLVE_FAMILY_IPV6},
	{0},
};

static const struct lb_schema_word on_down_words[] = {
	{"keep", LB_ON_DOWN_KEEP},
	{"reset", LB_ON_DOWN_RESET},
	{0},
};

static const struct lb_schema_word log_level_words[] = {
	{"error", LB_LOG_ERROR},
	{"warn", LB_LOG_WARN},
	{"warning", LB_LOG_WARN},
	{"info", LB_LOG_INFO},
	{"debug", LB_LOG_DEBUG},
	{"trace", LB_LOG_DEBUG},
	{0},
};

static const struct lb_schema_word log_format_words[] = {
	{"text", LB_LOG_TEXT},
	{"json", LB_LOG_JSON},
	{0},
};

static const struct lb_schema_word facility_words[] = {
	{"daemon", LOG_DAEMON},
	{"user", LOG_USER},
	{"local0", LOG_LOCAL0},
	{"local1", LOG_LOCAL1},
	{"local2", LOG_LOCAL2},
	{"local3", LOG_LOCAL3},
	{"local4", LOG_LOCAL4},
	{"local5", LOG_LOCAL5},
	{"local6", LOG_LOCAL6},
	{"local7", LOG_LOCAL7},
	{0},
};

static const struct lb_schema_key backend_keys[] = {
	{"addr", .type = LB_SCHEMA_BACKEND, .offset = FIELD(lb_backend_config, addr, char *),
	 REQUIRED, .help = "Where to connect: address or host name, and port."},
	{"weight", NUMBER(lb_backend_config, weight), RANGE(1, 256), .def = "1",
	 .help = "Share of new connections, relative to the other backends of the rule."},
	{"drain", BOOL(lb_backend_config, drain), .def = "false",
	 .help = "No new connections; those it has live on."},
	{"backup", BOOL(lb_backend_config, backup), .def = "false",
	 .help = "Used only while no other backend is up."},
	{"max_connections", NUMBER(lb_backend_config, max_connections), RANGE(0, CONNECTIONS),
	 .def = "0", .help = "Connections it gets at once, over all workers. 0: no limit."},
	{"tls_name", STRING(lb_backend_config, tls_name), RANGE(1, 253), .otherwise = "its host",
	 .help = "Name asked for and verified when `backend_tls` is enabled."},
};
static const struct lb_schema_block backend_block = {KEYS(backend_keys), .shorthand = "addr"};

#define BACKENDS(s)                                                   \
	"backends", .type = LB_SCHEMA_BLOCK, .block = &backend_block, \
		    LIST(s, backends, struct lb_backend_config), ITEMS(1, 4096), REQUIRED

static const struct lb_schema_key resolve_keys[] = {
	{"addresses", WORD(lb_resolve_config, addresses, resolve_addresses_words), .def = "first",
	 .help = "A name stands for its first address, or for all: each one is a backend with the "
		 "entry's weight and limits."},
	{"family", WORD(lb_resolve_config, family, resolve_family_words), .def = "any",
	 .help = "Which addresses are asked for."},
	{"interval_ms", MS(lb_resolve_config, interval_ms), RANGE(1000, DAY), .def = "30s",
	 .help = "A name is looked up again when the time to live of its answer is over, and after "
		 "so long at the latest."},
	{"timeout_ms", MS(lb_resolve_config, timeout_ms), RANGE(100, 60 * SECOND), .def = "5s",
	 .help = "An answer later than this is none."},
	{"required", BOOL(lb_resolve_config, required), .def = "true",
	 .help = "The daemon does not start while a name has no address; `false`: the rule starts "
		 "without that backend."},
};
static const struct lb_schema_block resolve_block = {KEYS(resolve_keys)};

static const struct lb_schema_key timeouts_keys[] = {
	{"connect_ms", MS(lb_timeouts_config, connect_ms), RANGE(1, HOUR), .def = "5s",
	 .help = "A backend that has not answered by then has failed; the next one is tried."},
	{"idle_ms", MS(lb_timeouts_config, idle_ms), RANGE(0, 365 * DAY), .def = "10min",
	 .help = "A flow without a byte either way for so long is closed. 0: never."},
	{"handshake_ms", MS(lb_timeouts_config, handshake_ms), RANGE(1, HOUR), .def = "10s",
	 .help = "A client's PROXY header and TLS handshake must be complete by then."},
	{"max_lifetime_ms", MS(lb_timeouts_config, max_lifetime_ms), RANGE(0, 365 * DAY),
	 .def = "0", .help = "A flow older than this is closed. 0: never."},
	{"drain_ms", MS(lb_timeouts_config, drain_ms), RANGE(0, 7 * DAY), .def = "30s",
	 .help = "What a stop, or a reload without the rule, leaves living flows to end by "
		 "themselves."},
	{"keepalive_ms", MS(lb_timeouts_config, keepalive_ms), RANGE(0, 9 * HOUR), .def = "0",
	 .help = "A peer that is silent for so long is asked whether it lives; it has failed after "
		 "three questions, a third of that time apart. Whole seconds. 0: never."},
	{"user_timeout_ms", MS(lb_timeouts_config, user_timeout_ms), RANGE(0, DAY), .def = "0",
	 .help = "A peer that acknowledges nothing of what it was sent for so long has failed. 0: "
		 "as the kernel thinks fit."},
};
static const struct lb_schema_block timeouts_block = {KEYS(timeouts_keys)};

static const struct lb_schema_key queue_keys[] = {
	{"max", NUMBER(lb_queue_config, max), RANGE(0, 65535), .def = "0",
	 .help = "Clients that may wait when every backend is at its limit. 0: none."},
	{"timeout_ms", MS(lb_queue_config, timeout_ms), RANGE(1, HOUR), .def = "10s",
	 .help = "How long each may wait."},
};
static const struct lb_schema_block queue_block = {KEYS(queue_keys)};

static const struct lb_schema_key connection_limits_keys[] = {
	{"cluster", BOOL(lb_connection_limits_config, cluster), .def = "false",
	 .help = "Both, and `max_connections` of backends, are those of all nodes of the cluster "
		 "together. docs/cluster.md."},
};
static const struct lb_schema_block connection_limits_block = {KEYS(connection_limits_keys)};

static const struct lb_schema_key certificate_keys[] = {
	{"cert", STRING(lb_certificate_config, cert), RANGE(1, PATH_BYTES), REQUIRED,
	 .help = "PEM file: certificate and chain."},
	{"key", STRING(lb_certificate_config, key), RANGE(1, PATH_BYTES), REQUIRED,
	 .help = "PEM file: its private key."},
	{"ocsp", STRING(lb_certificate_config, ocsp), RANGE(1, PATH_BYTES),
	 .help = "DER file: an OCSP response for it, stapled while it is valid."},
};
static const struct lb_schema_block certificate_block = {KEYS(certificate_keys)};

static const struct lb_schema_key tls_keys[] = {
	{"enabled", BOOL(lb_tls_config, enabled), .def = "false", REQUIRED,
	 .help = "Speak TLS with clients."},
	{"cert", STRING(lb_tls_config, cert), RANGE(1, PATH_BYTES),
	 .help = "PEM file: the default certificate and its chain."},
	{"key", STRING(lb_tls_config, key), RANGE(1, PATH_BYTES),
	 .help = "PEM file: the private key of `cert`."},
	{"ocsp", STRING(lb_tls_config, ocsp), RANGE(1, PATH_BYTES),
	 .help = "DER file: an OCSP response for `cert`, stapled while it is valid."},
	{"certificates", .type = LB_SCHEMA_BLOCK, .block = &certificate_block,
	 LIST(lb_tls_config, certificates, struct lb_certificate_config), ITEMS(0, 4096),
	 .help = "Further certificates, chosen by the name the client asks for (SNI)."},
	{"min_version", WORD(lb_tls_config, min_version, tls_version_words), .def = "1.2",
	 .help = "Oldest TLS version spoken."},
	{"ciphers", STRING(lb_tls_config, ciphers), RANGE(1, 4096),
	 .otherwise = "Mozilla's intermediate selection",
	 .help = "OpenSSL cipher list; names that begin with TLS_ are for TLS 1.3."},
	{"groups", STRING(lb_tls_config, groups), RANGE(1, 4096), .otherwise = "X25519:P-256:P-384",
	 .help = "Groups for the key exchange, best first."},
	{"alpn", .type = LB_SCHEMA_STRING, LIST(lb_tls_config, alpn, char *), ITEMS(0, 16),
	 RANGE(1, 255), .help = "Protocols offered, best first."},
	{"client_ca", STRING(lb_tls_config, client_ca), RANGE(1, PATH_BYTES),
	 .help = "PEM file: clients must show a certificate signed by one of these."},
	{"client_crl", STRING(lb_tls_config, client_crl), RANGE(1, PATH_BYTES),
	 .help = "PEM file: certificates that are revoked, a list for each authority."},
	{"client_auth", WORD(lb_tls_config, client_auth, client_auth_words), .def = "required",
	 .help = "Whether a client may come without a certificate (optional)."},
	{"session_tickets", BOOL(lb_tls_config, session_tickets), .def = "true",
	 .help = "Let clients resume sessions."},
	{"share_tickets", BOOL(lb_tls_config, share_tickets), .def = "false",
	 .help = "On every node of the cluster, too. Needs `cluster.key_file`; docs/tls.md."},
	{"ktls", WORD(lb_tls_config, ktls, ktls_words), .def = "auto",
	 .help = "Let the kernel seal what is sent, where it can."},
};
static const struct lb_schema_block tls_block = {KEYS(tls_keys)};

static const struct lb_schema_key backend_tls_keys[] = {
	{"enabled", BOOL(lb_backend_tls_config, enabled), .def = "false", REQUIRED,
	 .help = "Speak TLS with backends."},
	{"ignore_verify", BOOL(lb_backend_tls_config, ignore_verify), .def = "false",
	 .help = "Accept any certificate. Only for tests."},
	{"ca", STRING(lb_backend_tls_config, ca), RANGE(1, PATH_BYTES), .otherwise = "the system's",
	 .help = "PEM file: who may sign for backends."},
	{"crl", STRING(lb_backend_tls_config, crl), RANGE(1, PATH_BYTES),
	 .help = "PEM file: certificates that are revoked, a list for each authority; needs `ca`."},
	{"name", STRING(lb_backend_tls_config, name), RANGE(1, 253),
	 .otherwise = "each backend's host", .help = "Name asked for and verified."},
	{"client_cert", STRING(lb_backend_tls_config, client_cert), RANGE(1, PATH_BYTES),
	 .help = "PEM file: our certificate."},
	{"client_key", STRING(lb_backend_tls_config, client_key), RANGE(1, PATH_BYTES),
	 .help = "PEM file: its private key."},
	{"ktls", WORD(lb_backend_tls_config, ktls, ktls_words), .def = "auto",
	 .help = "Let the kernel seal what is sent, where it can."},
};
static const struct lb_schema_block backend_tls_block = {KEYS(backend_tls_keys)};

static const struct lb_schema_key sni_keys[] = {
	{"name", STRING(lb_sni_config, name), RANGE(1, 253), .otherwise = "the first of `names`",
	 .help = "What the route is called in the log, the metrics and by lbctl, behind the rule's "
		 "name and a slash."},
	{"names", .type = LB_SCHEMA_STRING, LIST(lb_sni_config, names, char *), ITEMS(1, 1024),
	 RANGE(1, 253), REQUIRED,
	 .help = "Names a client may ask for: exact, `*.example.org` (one label for the star), or "
		 "`*`: any, and none."},
	{"alpn", .type = LB_SCHEMA_STRING, LIST(lb_sni_config, alpn, char *), ITEMS(0, 16),
	 RANGE(1, 255),
	 .help = "Only clients that offer one of these protocols, `h2` for example."},
	{BACKENDS(lb_sni_config), .help = "Where those clients go."},
};
static const struct lb_schema_block sni_block = {KEYS(sni_keys)};

static const struct lb_schema_key rate_limit_keys[] = {
	{"enabled", BOOL(lb_rate_limit_config, enabled), .def = "false", REQUIRED,
	 .help = "Limit new connections per client address."},
	{"requests_per_second", NUMBER(lb_rate_limit_config, requests_per_second),
	 RANGE(1, 100000000), REQUIRED, .help = "New connections per second and client."},
	{"burst", NUMBER(lb_rate_limit_config, burst), RANGE(1, 100000000),
	 .otherwise = "`requests_per_second`", .help = "How many may come at once after a pause."},
	{"ipv6_prefix", NUMBER(lb_rate_limit_config, ipv6_prefix), RANGE(1, 128), .def = "64",
	 .help = "IPv6 addresses that share so many leading bits are one client."},
	{"rule_requests_per_second", NUMBER(lb_rate_limit_config, rule_requests_per_second),
	 RANGE(0, 100000000), .def = "0",
	 .help = "New connections per second of all clients together. 0: no limit."},
	{"rule_burst", NUMBER(lb_rate_limit_config, rule_burst), RANGE(0, 100000000),
	 .otherwise = "`rule_requests_per_second`",
	 .help = "How many of them may come at once after a pause."},
	{"cluster", BOOL(lb_rate_limit_config, cluster), .def = "false",
	 .help = "One limit over all nodes of the cluster. docs/cluster.md."},
};
static const struct lb_schema_block rate_limit_block = {KEYS(rate_limit_keys)};

static const struct lb_schema_key bandwidth_keys[] = {
	{"upload_per_sec", BYTES(lb_bandwidth_config, upload_per_sec), RANGE(0, TIB), .def = "0",
	 .help = "Bytes per second from clients to backends. 0: no limit."},
	{"download_per_sec", BYTES(lb_bandwidth_config, download_per_sec), RANGE(0, TIB),
	 .def = "0", .help = "Bytes per second from backends to clients. 0: no limit."},
};
static const struct lb_schema_block bandwidth_block = {KEYS(bandwidth_keys)};

static const struct lb_schema_key bandwidth_limit_keys[] = {
	{"enabled", BOOL(lb_bandwidth_limit_config, enabled), .def = "false", REQUIRED,
	 .help = "Limit the bytes per second."},
	{"client", BLOCK(lb_bandwidth_limit_config, client, bandwidth_block),
	 .help = "All connections of one client address together."},
	{"backend", BLOCK(lb_bandwidth_limit_config, backend, bandwidth_block),
	 .help = "All connections to one backend together."},
};
static const struct lb_schema_block bandwidth_limit_block = {KEYS(bandwidth_limit_keys)};

static const struct lb_schema_key health_check_keys[] = {
	{"enabled", BOOL(lb_health_check_config, enabled), .def = "false", REQUIRED,
	 .help = "Ask backends regularly whether they are well."},
	{"interval_ms", MS(lb_health_check_config, interval_ms), RANGE(10, DAY), .def = "5s",
	 .help = "Time between two checks of a backend."},
	{"timeout_ms", MS(lb_health_check_config, timeout_ms), RANGE(1, HOUR), .def = "1s",
	 .help = "An answer later than this is a failure."},
	{"protocol", WORD(lb_health_check_config, protocol, health_check_words), .def = "tcp",
	 .help = "A connect is enough (tcp), or a good status is needed (http)."},
	{"path", STRING(lb_health_check_config, path), RANGE(1, 2048), .def = "/",
	 .help = "http: what to ask for."},
	{"host", STRING(lb_health_check_config, host), RANGE(1, 255), .otherwise = "the backend's",
	 .help = "http: the Host header."},
	{"port", PORT(lb_health_check_config, port), RANGE(0, 65535), .def = "0",
	 .help = "Port to check. 0: the one that gets the traffic."},
	{"expect_status", .type = LB_SCHEMA_STATUS, ITEMS(0, 64), .otherwise = "200-399",
	 LIST(lb_health_check_config, expect_status, struct lb_status_range),
	 .help = "http: good answers."},
	{"initial", WORD(lb_health_check_config, initial, initial_words), .def = "up",
	 .help = "Before the first answer a backend gets clients (up) or none (unknown)."},
	{"rise", NUMBER(lb_health_check_config, rise), RANGE(1, 100), .def = "2",
	 .help = "Successes in a row that bring a backend up."},
	{"fall", NUMBER(lb_health_check_config, fall), RANGE(1, 100), .def = "3",
	 .help = "Failures in a row that take it down."},
	{"tls", BOOL(lb_health_check_config, tls), .def = "false",
	 .help = "Check over TLS, verified as `backend_tls` says, or not at all without it."},
	{"send_proxy", BOOL(lb_health_check_config, send_proxy), .def = "false",
	 .help = "Start with a PROXY header: of version 2 if `proxy_protocol` says so, else 1."},
	{"send", TEXT(lb_health_check_config, send), RANGE(1, 4096),
	 .help = "tcp: what to send first."},
	{"expect", TEXT(lb_health_check_config, expect), RANGE(1, 4096),
	 .help = "tcp: what a good answer starts with."},
	{"slow_start_ms", MS(lb_health_check_config, slow_start_ms), RANGE(0, HOUR), .def = "0",
	 .help = "A backend that came up reaches its weight over this time."},
	{"share", BOOL(lb_health_check_config, share), .def = "false",
	 .help = "Let two nodes of the cluster ask for all. docs/cluster.md."},
};
static const struct lb_schema_block health_check_block = {KEYS(health_check_keys)};

static const struct lb_schema_key passive_health_keys[] = {
	{"enabled", BOOL(lb_passive_health_config, enabled), .def = "false", REQUIRED,
	 .help = "Learn from the traffic itself which backends fail."},
	{"failures", NUMBER(lb_passive_health_config, failures), RANGE(1, 10000), .def = "5",
	 .help = "So many failures take a backend out."},
	{"window_ms", MS(lb_passive_health_config, window_ms), RANGE(100, DAY), .def = "10s",
	 .help = "The time in which they must happen."},
	{"eject_ms", MS(lb_passive_health_config, eject_ms), RANGE(100, DAY), .def = "10s",
	 .help = "How long it stays out the first time."},
	{"max_ejected_percent", NUMBER(lb_passive_health_config, max_ejected_percent),
	 RANGE(0, 100), .def = "50", .help = "Never take out more of the rule's backends."},
};
static const struct lb_schema_block passive_health_block = {KEYS(passive_health_keys)};

static const struct lb_schema_key rule_keys[] = {
	{"name", STRING(lb_rule_config, name), RANGE(1, 128), REQUIRED,
	 .help = "How logs, metrics and lbctl call the rule; unique."},
	{"listen", ADDRESS(lb_rule_config, listen), REQUIRED,
	 .help = "Where clients connect. An IPv6 address takes IPv6 clients only."},
	{"protocol", WORD(lb_rule_config, protocol, protocol_words), .def = "tcp",
	 .help = "The transport."},
	{BACKENDS(lb_rule_config),
	 .help = "Where they are sent. An entry may be just the address: `- \"10.0.0.1:80\"`."},
	{"resolve", BLOCK(lb_rule_config, resolve, resolve_block),
	 .help = "How backends that are host names become addresses."},
	{"balance", WORD(lb_rule_config, balance, balance_words), .def = "weighted_round_robin",
	 .help = "How a backend is chosen."},
	{"acceleration", WORD(lb_rule_config, acceleration, acceleration_words),
	 .otherwise = "as at the top level", .help = "Which carrier moves the bytes."},
	{"same_host_bypass", BOOL(lb_rule_config, same_host_bypass), .def = "false",
	 .help = "Bytes to and from processes on this host skip TCP. docs/kernel.md has the "
		 "limits."},
	{"timeouts", BLOCK(lb_rule_config, timeouts, timeouts_block),
	 .help = "Times for its flows."},
	{"retries", NUMBER(lb_rule_config, retries), RANGE(0, 255), .def = "2",
	 .help = "Further backends tried after the first one failed to connect."},
	{"queue", BLOCK(lb_rule_config, queue, queue_block),
	 .help = "Waiting room for clients that no backend has room for."},
	{"backend_connection_limit", NUMBER(lb_rule_config, backend_connection_limit),
	 RANGE(0, CONNECTIONS), .def = "0",
	 .help = "Connections each backend gets at once, over all workers. 0: no limit."},
	{"client_connection_limit", NUMBER(lb_rule_config, client_connection_limit),
	 RANGE(0, CONNECTIONS), .def = "0",
	 .help = "Connections each client address may have at once. 0: no limit."},
	{"connection_limits", BLOCK(lb_rule_config, connection_limits, connection_limits_block),
	 .help = "What holds for both limits of connections."},
	{"proxy_protocol", WORD(lb_rule_config, proxy_protocol, proxy_protocol_words), .def = "off",
	 .help = "Header that tells backends the client's address; `true` means v2."},
	{"accept_proxy_protocol", .type = LB_SCHEMA_PREFIX, ITEMS(0, 4096),
	 LIST(lb_rule_config, accept_proxy_protocol, struct lb_prefix),
	 .help = "Proxies in front of this rule: they must begin with a PROXY header, which is "
		 "believed; all other peers are refused. Empty: no header is read."},
	{"tls", BLOCK(lb_rule_config, tls, tls_block), .help = "TLS towards clients."},
	{"backend_tls", BLOCK(lb_rule_config, backend_tls, backend_tls_block),
	 .help = "TLS towards backends."},
	{"sni", .type = LB_SCHEMA_BLOCK, .block = &sni_block, ITEMS(0, 1024),
	 LIST(lb_rule_config, sni, struct lb_sni_config),
	 .help = "Other backends for TLS clients that ask for certain names; nothing is "
		 "decrypted."},
	{"rate_limit", BLOCK(lb_rule_config, rate_limit, rate_limit_block),
	 .help = "New connections per client."},
	{"bandwidth_limit", BLOCK(lb_rule_config, bandwidth_limit, bandwidth_limit_block),
	 .help = "Bytes per second."},
	{"health_check", BLOCK(lb_rule_config, health_check, health_check_block),
	 .help = "Active checks of the backends."},
	{"passive_health", BLOCK(lb_rule_config, passive_health, passive_health_block),
	 .help = "Backends that fail under traffic."},
	{"on_down", WORD(lb_rule_config, on_down, on_down_words), .def = "keep",
	 .help = "A backend that goes down keeps its flows, or both their ends are reset."},
	{"allow_list", .type = LB_SCHEMA_PREFIX, ITEMS(0, ITEMS_ACL),
	 LIST(lb_rule_config, allow_list, struct lb_prefix),
	 .help = "Only these clients are served. Empty: everyone."},
	{"deny_list", .type = LB_SCHEMA_PREFIX, ITEMS(0, ITEMS_ACL),
	 LIST(lb_rule_config, deny_list, struct lb_prefix),
	 .help = "These clients are not served; wins over `allow_list`."},
	{"allow_list_file", STRING(lb_rule_config, allow_list_file), RANGE(1, PATH_BYTES),
	 .help = "More of `allow_list`, one entry in a line, `#` begins a comment."},
	{"deny_list_file", STRING(lb_rule_config, deny_list_file), RANGE(1, PATH_BYTES),
	 .help = "More of `deny_list`, likewise."},
	{"acl_cut_existing", BOOL(lb_rule_config, acl_cut_existing), .def = "false",
	 .help = "A reload resets the flows of clients that it denies; else they live on."},
};
static const struct lb_schema_block rule_block = {KEYS(rule_keys)};

static const struct lb_schema_key log_keys[] = {
	{"level", WORD(lb_config, log_level, log_level_words), .def = "info",
	 .help = "How much the daemon says on standard error."},
	{"format", WORD(lb_config, log_format, log_format_words), .def = "text",
	 .help = "How its lines look: words for people, or one JSON object each."},
};
static const struct lb_schema_block log_block = {KEYS(log_keys)};

static const struct lb_schema_key access_log_keys[] = {
	{"path", STRING(lb_config, access_log.path), RANGE(1, PATH_BYTES), .nothing = "off",
	 .def = "off",
	 .help = "`stdout`, `stderr`, `syslog` (the local one, `/dev/log`) or a file, which "
		 "SIGUSR1 opens anew."},
	{"format", WORD(lb_config, access_log.format, log_format_words), .def = "text",
	 .help = "`name=value` words, or one JSON object a line with the same names."},
	{"facility", WORD(lb_config, access_log.facility, facility_words), .def = "daemon",
	 .help = "syslog: what the lines are filed under; their severity is info."},
};
static const struct lb_schema_block access_log_block = {KEYS(access_log_keys), .shorthand = "path"};

static const struct lb_schema_key admin_keys[] = {
	{"socket", STRING(lb_config, admin.socket), RANGE(1, 107), .nothing = "off",
	 .def = "/run/layer4-lb/admin.sock", .help = "Unix socket that lbctl talks to."},
	{"metrics", ADDRESS(lb_config, metrics_addr), .nothing = "off", .def = "127.0.0.1:9091",
	 .help = "Where Prometheus reads `/metrics`."},
	{"page", BOOL(lb_config, admin.page), .def = "false",
	 .help = "A dashboard for browsers at the same address, `/`. docs/operations.md."},
};
static const struct lb_schema_block admin_block = {KEYS(admin_keys)};

static const struct lb_schema_key cluster_keys[] = {
	{"enabled", BOOL(lb_cluster_config, enabled), .def = "false", REQUIRED,
	 .help = "Join other nodes."},
	{"name", STRING(lb_cluster_config, name), RANGE(1, 63), .otherwise = "the host's name",
	 .help = "How others call this node; unique. Letters, digits, `.`, `_` and `-`."},
	{"bind_addr", ADDRESS(lb_cluster_config, bind_addr), REQUIRED,
	 .help = "UDP address for gossip."},
	{"advertise_addr", ADDRESS(lb_cluster_config, advertise_addr), .otherwise = "`bind_addr`",
	 .help = "Where other nodes reach this one. With a `bind_addr` of all zeros, it is the "
		 "address on the way to the first peer."},
	{"peers", .type = LB_SCHEMA_ENDPOINT, LIST(lb_cluster_config, peers, char *),
	 ITEMS(0, 1024), .help = "Nodes to join through."},
	{"nodes", NUMBER(lb_cluster_config, nodes), RANGE(0, 4096), .def = "0",
	 .help = "Limits that nodes share are divided by so many at least. 0: as many as `peers`, "
		 "and this one where it is not among them."},
	{"key_file", STRING(lb_cluster_config, key_file), RANGE(1, PATH_BYTES),
	 .help = "Keys that seal the gossip. docs/cluster.md."},
	{"insecure", BOOL(lb_cluster_config, insecure), .def = "false",
	 .help = "Run without a key. Only for tests."},
};
static const struct lb_schema_block cluster_block = {KEYS(cluster_keys)};

static const struct lb_schema_key graft_keys[] = {
	{"after_bytes", BYTES(lb_graft_config, after_bytes), RANGE(0, TIB), .def = "32KiB",
	 .help = "`auto` grafts a flow that has moved so many bytes .."},
	{"after_ms", MS(lb_graft_config, after_ms), RANGE(0, DAY), .def = "1s",
	 .help = ".. or has lived so long."},
	{"max_flows", NUMBER(lb_graft_config, max_flows), RANGE(1, 1048576), .def = "65536",
	 .help = "Grafted flows at once: 320 bytes of kernel memory each, in use or not."},
	{"port_min", PORT(lb_graft_config, port_min), RANGE(1024, 65535), .def = "10240",
	 .help = "First local port for connections to backends that may be grafted."},
	{"port_max", PORT(lb_graft_config, port_max), RANGE(1024, 65535), .def = "29999",
	 .help = "The last one. The range must not be where the kernel picks ports for others "
		 "(`net.ipv4.ip_local_port_range`)."},
};
static const struct lb_schema_block graft_block = {KEYS(graft_keys)};

static const struct lb_schema_key root_keys[] = {
	{"log", SAME_STRUCT(log_block), .help = "The daemon's own log."},
	{"access_log", SAME_STRUCT(access_log_block),
	 .help = "One line per ended flow. `access_log: FILE` is `path` alone."},
	{"reload_on_change", BOOL(lb_config, reload_on_change), .def = "false",
	 .help = "This file is watched, and read again when it has changed, as after SIGHUP."},
	{"workers", NUMBER(lb_config, workers), RANGE(0, 256),
	 .otherwise = "`NUM_ACCEPTORS` of the environment, else 0",
	 .help = "Threads that carry flows. 0: one per core."},
	{"acceleration", WORD(lb_config, acceleration, acceleration_words), .def = "auto",
	 .help = "Which carrier moves the bytes, for rules that do not say."},
	{"interfaces", .type = LB_SCHEMA_STRING, LIST(lb_config, interfaces, char *), RANGE(1, 15),
	 ITEMS(0, 256), .nothing = "auto",
	 .help = "Interfaces where the programs see packets. `auto`: every one that has an "
		 "address."},
	{"admission", WORD(lb_config, admission, admission_words), .def = "auto",
	 .help = "Where the SYNs of refused clients are dropped: in the driver (`native` XDP), "
		 "before or behind TC's (`generic` XDP, `tc`), or wherever it pays (`auto`). "
		 "`off`: "
		 "they are refused after they are accepted. docs/limits.md."},
	{"graft", BLOCK(lb_config, graft, graft_block),
	 .help = "When flows become one connection at packet level, and what they may use."},
	{"admin", SAME_STRUCT(admin_block), .help = "How the daemon is watched and steered."},
	{"cluster", BLOCK(lb_config, cluster, cluster_block),
	 .help = "Nodes that know of each other."},
	{"rules", .type = LB_SCHEMA_BLOCK, .block = &rule_block, ITEMS(1, 4096), REQUIRED,
	 LIST(lb_config, rules, struct lb_rule_config),
	 .help = "What is balanced: one entry per listening address."},
};
const struct lb_schema_block lb_schema_root = {KEYS(root_keys)};
