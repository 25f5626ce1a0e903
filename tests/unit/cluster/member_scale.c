/* SPDX-License-Identifier: MIT */
/*
 * What is promised of large clusters, measured. As it is, it takes seconds; with LB_SIM=long (`make
 * cluster-sim`) the numbers are those of docs/cluster.md.
 */
#include "cluster/member.h"

#include "sim.h"

/* A node takes many times as long under a sanitizer. */
#ifdef __SANITIZE_ADDRESS__
#define FEW 50u
#else
#define FEW 100u
#endif

static bool is_long(void)
{
	const char *how = getenv("LB_SIM");

	return how && !strcmp(how, "long");
}

static double periods(uint64_t us)
{
	return (double)us / 1000 / LB_MEMBER_PERIOD_MS;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* From the death of a node until the last one knows. */
static double death_of(struct sim *s, uint32_t index)
{
	uint64_t start;
	double took;

	s->watched = s->nodes[index].id;
	s->known_dead = 0;
	/* At any time within a period. */
	sim_run(s, sim_random(s, SIM_SECOND));
	start = s->now_us;
	sim_kill(s, index);
	while (s->known_dead < s->count - 1 && s->now_us - start < 300 * SIM_SECOND)
		sim_run(s, SIM_SECOND / 20);
	assert_int_equal(s->known_dead, s->count - 1);
	took = periods(s->now_us - start);
	sim_start(s, index, SIM_START + s->now_us / 1000);
	sim_until(s, s->count, 60 * SIM_SECOND);
	return took;
}

static void a_death_is_known_to_all(void **state)
{
	uint32_t count = is_long() ? 1000 : 2 * FEW, deaths = is_long() ? 100 : FEW / 5;
	double took[100] = {}, suspicion;
	struct sim s;

	sim_init(&s, count, 21);
	print_message("%u nodes are a cluster after %.1f periods\n", count,
		      periods(sim_until(&s, count, 120 * SIM_SECOND)));
	suspicion = (double)lb_member_suspicion_ms(s.nodes[0].g, 2) / LB_MEMBER_PERIOD_MS;
	for (uint32_t i = 0; i < deaths; i++)
		took[i] = death_of(&s, 3 + i);
	qsort(took, deaths, sizeof(took[0]), by_size);
	print_message("%u deaths: known to all after %.1f periods in the median, %.1f at most; "
		      "of these %.1f are the suspicion time\n",
		      deaths, took[deaths / 2], took[deaths - 1], suspicion);
	assert_true(took[deaths - 1] <= suspicion + 5);
	assert_int_equal(s.false_deaths, 0);
	sim_fini(&s);
}

static void loss_kills_nobody(void **state)
{
	uint32_t count = is_long() ? 1000 : FEW, seconds = is_long() ? 3600 : 300;
	struct sim s;

	sim_init(&s, count, 22);
	sim_until(&s, count, 120 * SIM_SECOND);
	s.loss_permille = 100;
	s.datagrams = s.suspicions = 0;
	sim_run(&s, seconds * SIM_SECOND);
	print_message("%u nodes, %u s, 10 %% loss: %llu datagrams, %llu times a node held another "
		      "suspect, %llu false deaths\n",
		      count, seconds, (unsigned long long)s.datagrams,
		      (unsigned long long)s.suspicions, (unsigned long long)s.false_deaths);
	assert_int_equal(s.false_deaths, 0);
	assert_int_equal(sim_agree(&s, count), count);
	sim_fini(&s);
}

struct traffic {
	double datagrams, bytes, bytes_max; /* per node and period; of the busiest */
};

static struct traffic traffic_of(uint32_t count, uint32_t loss_permille)
{
	uint32_t seconds = is_long() ? 600 : 60;
	struct traffic t = {};
	struct sim s;

	sim_init(&s, count, 23);
	sim_until(&s, count, 120 * SIM_SECOND);
	/* Until the news of the joining has been told, and every table been seen whole. */
	sim_run(&s, 120 * SIM_SECOND);
	s.loss_permille = loss_permille;
	for (uint32_t i = 0; i < count; i++)
		s.nodes[i].sent = s.nodes[i].sent_bytes = 0;
	sim_run(&s, seconds * SIM_SECOND);
	for (uint32_t i = 0; i < count; i++) {
		double bytes = (double)s.nodes[i].sent_bytes / seconds;

		t.datagrams += (double)s.nodes[i].sent / seconds / count;
		t.bytes += bytes / count;
		t.bytes_max = bytes > t.bytes_max ? bytes : t.bytes_max;
		assert_true(s.nodes[i].bytes_max <= LB_WIRE_PLAIN_MAX);
	}
	print_message("%4u nodes, %3u permille loss: %.2f datagrams, %.0f bytes per node and "
		      "period, the busiest node %.0f\n",
		      count, loss_permille, t.datagrams, t.bytes, t.bytes_max);
	sim_fini(&s);
	return t;
}

static void traffic_does_not_grow_with_the_cluster(void **state)
{
	uint32_t large = is_long() ? 1000 : 3 * FEW, small = is_long() ? 100 : FEW;
	struct traffic few = traffic_of(small, 0), many = traffic_of(large, 0);

	/* A small table has pages that are not full; beyond that nothing grows. */
	assert_true(many.datagrams < few.datagrams * 1.02);
	assert_true(many.bytes < few.bytes * 1.25);
	few = traffic_of(small, 100);
	many = traffic_of(large, 100);
	assert_true(many.bytes < few.bytes * 1.5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_death_is_known_to_all),
		cmocka_unit_test(loss_kills_nobody),
		cmocka_unit_test(traffic_does_not_grow_with_the_cluster),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
