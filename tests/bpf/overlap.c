/* SPDX-License-Identifier: MIT */
/*
 * sk_verdict: retransmissions that were cut differently begin with bytes that were received before.
 * They are made here by hand: a segment with the sequence number of old bytes, sent past the
 * client's socket, which will count its bytes as sent by somebody else.
 */
#include <arpa/inet.h>
#include <netinet/ip.h>

#include "flow.h"

#define TCP_HEADER 20u
#define IP_HEADER  20u
#define SEGMENT    32768u

static uint32_t sequence(int fd, int queue)
{
	int on = TCP_REPAIR_ON, off = TCP_REPAIR_OFF_NO_WP;
	socklen_t len = sizeof(uint32_t);
	uint32_t seq = 0;

	assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)), 0);
	assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, &queue, sizeof(queue)), 0);
	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &seq, &len), 0);
	assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &off, sizeof(off)), 0);
	return seq;
}

/* RFC 1071 over TCP's pseudo header (both addresses 127.0.0.1) and <len> bytes of segment. */
static uint16_t checksum(const unsigned char *segment, size_t len)
{
	uint32_t sum = 2 * (0x7f00 + 0x0001) + IPPROTO_TCP + (uint32_t)len;

	for (size_t i = 0; i < len; i++)
		sum += i % 2 ? segment[i] : (uint32_t)segment[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons((uint16_t)~sum);
}

/* Repeats the last <old> bytes of the client's stream, which is <sent> long, and adds <more>. */
static void inject(int client, uint64_t sent, uint32_t old, uint32_t more)
{
	static unsigned char packet[IP_HEADER + TCP_HEADER + SEGMENT];
	const size_t size = IP_HEADER + TCP_HEADER + old + more;
	unsigned char *segment = packet + IP_HEADER;
	struct sockaddr_in from, to;
	socklen_t len = sizeof(from);
	LB_AUTO_CLOSE int raw = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);

	assert_true(raw >= 0);
	assert_true(old + more <= SEGMENT);
	assert_int_equal(getsockname(client, (struct sockaddr *)&from, &len), 0);
	assert_int_equal(getpeername(client, (struct sockaddr *)&to, &len), 0);
	*(struct iphdr *)packet = (struct iphdr){
		.version = 4,
		.ihl = IP_HEADER / 4,
		.ttl = 64,
		.protocol = IPPROTO_TCP,
		.tot_len = htons((uint16_t)size),
		.saddr = from.sin_addr.s_addr,
		.daddr = to.sin_addr.s_addr,
	};
	*(struct tcphdr *)segment = (struct tcphdr){
		.source = from.sin_port,
		.dest = to.sin_port,
		.seq = htonl(sequence(client, TCP_SEND_QUEUE) - old),
		.ack_seq = htonl(sequence(client, TCP_RECV_QUEUE)),
		.doff = TCP_HEADER / 4,
		.ack = 1,
		.psh = 1,
		.window = htons(500),
	};
	fill(segment + TCP_HEADER, old + more, sent - old);
	((struct tcphdr *)segment)->check = checksum(segment, size - IP_HEADER);
	assert_int_equal(sendto(raw, packet, size, 0, (struct sockaddr *)&to, sizeof(to)), size);
}

/* Exactly <len> bytes of the pattern, and no more, come out at <fd>. */
static void expect(int fd, size_t len, uint64_t position)
{
	static unsigned char in[SEGMENT * 2];
	size_t got = 0;

	do {
		ssize_t n = recv(fd, in + got, sizeof(in) - got, MSG_DONTWAIT);

		if (n > 0)
			got += (size_t)n;
	} while (room_readable(fd, got < len ? PATIENCE_MS : 100));
	assert_int_equal(got, len);
	check(in, got, position);
}

static const struct {
	uint32_t old, more;
} cuts[] = {{1, 1}, {1, 1000}, {500, 500}, {4095, 1}, {4096, 100}, {4097, 100}, {16000, 16000}};

static uint64_t carry_all(const struct flow *f, int to, size_t bytes)
{
	uint64_t sent = 0;

	while (sent < bytes) {
		carry(f->client, to, 4000, sent);
		sent += 4000;
	}
	return sent;
}

static void redirected_bytes_are_not_repeated(void **state)
{
	room_required();
	for (size_t i = 0; i < LB_ARRAY_SIZE(cuts); i++) {
		struct flow f = flow_open_inserted();
		uint64_t sent = carry_all(&f, f.server, 16000);

		inject(f.client, sent, cuts[i].old, cuts[i].more);
		expect(f.server, cuts[i].more, sent);
		assert_int_equal(seen(&f.up->redirected), sent + cuts[i].more);
		assert_int_equal(seen(&f.up->passed), 0);
		flow_close(&f);
	}
}

static void passed_bytes_are_not_repeated(void **state)
{
	room_required();
	for (size_t i = 0; i < LB_ARRAY_SIZE(cuts); i++) {
		struct flow f = flow_open();
		uint64_t sent;

		/* No sink: everything is passed. */
		insert(&f, LEG0, f.leg0);
		sent = carry_all(&f, f.leg0, 16000);
		inject(f.client, sent, cuts[i].old, cuts[i].more);
		expect(f.leg0, cuts[i].more, sent);
		assert_int_equal(seen(&f.up->passed), sent + cuts[i].more);
		flow_close(&f);
	}
}

static void bytes_read_before_the_insertion_are_not_repeated(void **state)
{
	room_required();
	for (size_t i = 0; i < LB_ARRAY_SIZE(cuts); i++) {
		struct flow f = flow_open();
		uint64_t sent = carry_all(&f, f.leg0, 16000);

		insert(&f, LEG1, f.leg1);
		insert(&f, LEG0, f.leg0);
		inject(f.client, sent, cuts[i].old, cuts[i].more);
		expect(f.server, cuts[i].more, sent);
		assert_int_equal(seen(&f.up->redirected), cuts[i].more);
		flow_close(&f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(redirected_bytes_are_not_repeated),
		cmocka_unit_test(passed_bytes_are_not_repeated),
		cmocka_unit_test(bytes_read_before_the_insertion_are_not_repeated),
	};

	return cmocka_run_group_tests(tests, flow_setup, flow_teardown);
}
