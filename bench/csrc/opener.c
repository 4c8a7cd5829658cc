// SPDX-License-Identifier: BSD-2-Clause
/*
 * A listener and its clients in one thread: opens real connections over loopback at a steady
 * rate and writes down when each one was about to be accepted.
 *
 * `opener FILE COUNT RATE KEEP VIP PORT CLIENT` begins at the first byte of its standard input and
 * ends with it. Connection i comes from address CLIENT + i / 50000, port 1024 + i % 50000, so that
 * no session comes twice. At most KEEP are open, the oldest goes by a reset.
 *
 * It is never more than an interval behind its schedule: what a machine that stood still did not
 * open in time is not made up for by a burst, which would take a core from everybody else.
 *
 * FILE: u64 opened, then for each of COUNT its time (CLOCK_MONOTONIC, ns), how late it began (ns),
 * and how long a fixed piece of arithmetic took just before (ns): the speed of the core.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PORTS 50000u
#define FIRST_PORT 1024u
#define SECOND 1000000000ull
#define BACKLOG 1024
#define ARITHMETIC 1000
#define WORDS 3 /* of a connection in the file */

struct pair {
	int client;
	int server;
};

struct plan {
	uint32_t count;
	uint32_t rate;
	uint32_t keep;
	struct sockaddr_in vip;
	uint32_t client;
};

static uint64_t now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec;
}

static void wait_until(uint64_t at_ns)
{
	struct timespec time = { (time_t)(at_ns / SECOND), (long)(at_ns % SECOND) };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) == EINTR)
		;
}

static void must(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(1);
	}
}

static int open_listener(const struct plan *plan)
{
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	int on = 1;

	must(listener >= 0, "socket");
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	must(!bind(listener, (const void *)&plan->vip, sizeof(plan->vip)), "bind");
	must(!listen(listener, BACKLOG), "listen");
	return listener;
}

/* A microsecond of a multiplication at a time: no memory, nothing to guess. */
static uint64_t time_of_arithmetic(void)
{
	uint64_t begun = now_ns(), x = 1;

	for (int i = 0; i < ARITHMETIC; i++) {
		x = x * 6364136223846793005u + 1;
		__asm__ volatile("" : "+r"(x));
	}
	return now_ns() - begun;
}

/* Gone by a reset: no TIME_WAIT is left on either side. */
static void close_pair(const struct pair *pair)
{
	close(pair->client);
	close(pair->server);
}

static struct pair open_pair(const struct plan *plan, int listener, uint32_t i, uint64_t *at_ns)
{
	struct sockaddr_in from = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(plan->client + i / PORTS),
		.sin_port = htons((uint16_t)(FIRST_PORT + i % PORTS)),
	};
	struct linger reset = { 1, 0 };
	struct pair pair;

	pair.client = socket(AF_INET, SOCK_STREAM, 0);
	must(pair.client >= 0, "socket");
	setsockopt(pair.client, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	must(!bind(pair.client, (void *)&from, sizeof(from)), "bind a client");
	must(!connect(pair.client, (const void *)&plan->vip, sizeof(plan->vip)), "connect");
	*at_ns = now_ns();
	pair.server = accept(listener, NULL, NULL);
	must(pair.server >= 0, "accept");
	return pair;
}

/* Half to one and a half intervals: no beat with anybody's timer. */
static uint64_t next_interval(uint64_t interval, uint32_t *state)
{
	*state = *state * 1664525u + 1013904223u;
	return interval / 2 + ((interval * (*state >> 8)) >> 24);
}

static void run(const struct plan *plan, int listener, volatile uint64_t *file)
{
	struct pair *open = calloc(plan->keep, sizeof(*open));
	uint64_t interval = SECOND / plan->rate, due = now_ns();
	uint32_t state = plan->client;

	must(open != NULL, "memory");
	for (uint32_t i = 0; i < plan->count; i++) {
		struct pair *slot = &open[i % plan->keep];
		volatile uint64_t *words = &file[1 + (size_t)WORDS * i];
		uint64_t at_ns, begun_ns;

		wait_until(due);
		begun_ns = now_ns();
		words[2] = time_of_arithmetic();
		if (i >= plan->keep)
			close_pair(slot);
		*slot = open_pair(plan, listener, i, &at_ns);
		words[0] = at_ns;
		words[1] = begun_ns - due;
		/* the time before the count: the reader goes by the count */
		__atomic_store_n(&file[0], i + 1, __ATOMIC_RELEASE);
		if (due + interval < begun_ns)
			due = begun_ns - interval;
		due += next_interval(interval, &state);
	}
	while (read(0, &state, 1) > 0)
		;
}

int main(int argc, char **argv)
{
	struct plan plan = { .vip.sin_family = AF_INET };
	struct sched_param first = { .sched_priority = 1 };
	struct in_addr client;
	size_t size;
	int file;
	char go;

	if (argc != 8 || !inet_aton(argv[5], &plan.vip.sin_addr) || !inet_aton(argv[7], &client))
		return 2;
	plan.count = (uint32_t)strtoul(argv[2], NULL, 10);
	plan.rate = (uint32_t)strtoul(argv[3], NULL, 10);
	plan.keep = (uint32_t)strtoul(argv[4], NULL, 10);
	plan.vip.sin_port = htons((uint16_t)strtoul(argv[6], NULL, 10));
	plan.client = ntohl(client.s_addr);
	if (!plan.count || !plan.rate || !plan.keep)
		return 2;
	size = (1 + WORDS * (size_t)plan.count) * sizeof(uint64_t);
	file = open(argv[1], O_RDWR);
	must(file >= 0, argv[1]);
	volatile uint64_t *times = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	must(times != MAP_FAILED, "mmap");
	int listener = open_listener(&plan);
	/* What comes from outside does not wait for the agents; where it is refused, so be it. */
	sched_setscheduler(0, SCHED_FIFO, &first);
	if (read(0, &go, 1) == 1)
		run(&plan, listener, times);
	return 0;
}
