// SPDX-License-Identifier: BSD-2-Clause
/*
 * The forwarder on a ring of frames as large as an AF_XDP loop's.
 */
#include "lookup_pipeline.h"

#include "forward.h"
#include "measuring.h"
#include "services.h"

#define RING 4096u
#define CHUNK 2048u
#define HEADROOM 256u		/* XDP_PACKET_HEADROOM */
#define HOST 1000		/* no session's owner */
#define PLACES 16

struct pipeline {
	struct xg_forwarder forwarder;
	struct xg_service services[PLACES];
	uint64_t counters[XG_COUNTERS];
	uint8_t *umem;
	const struct xg_template *headers;
};

struct pipeline *pipeline_make(const struct xg_session_table *table4, struct xg_owner_state *owners,
			       const void *headers)
{
	const struct xg_service service = {
		{ 0, 0, 0xffff0000u, VIP_BE }, HTTPS_BE, TCP, 0, 0, 0,
	};
	struct pipeline *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->umem = map_pages(RING * CHUNK, MADV_HUGEPAGE);	/* as the product's Umem */
	if (p->umem == MAP_FAILED || xg_service_put(p->services, PLACES - 1, &service))
		return NULL;
	p->headers = headers;
	p->forwarder = (struct xg_forwarder){
		.table4 = table4, .owners = owners, .templates = headers, .template_count = 1,
		.host = HOST, .services = p->services, .service_mask = PLACES - 1,
		.counters = p->counters,
	};
	return p;
}

/* An acknowledgement of the client's to the VIP. */
static void write_frame(uint8_t *frame, const char *key, uint32_t len)
{
	static const uint8_t headers[] = {
		2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 254, 8, 0,
		0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, TCP, 0, 0, 0, 0, 0, 0, 198, 51, 100, 1,
		0, 0, 443 >> 8, 443 & 255, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, XG_TCP_ACK,
		0, 0, 0, 0, 0, 0,
	};

	memcpy(frame, headers, sizeof(headers));
	frame[16] = (uint8_t)((len - XG_ETH_LEN) >> 8);
	frame[17] = (uint8_t)(len - XG_ETH_LEN);
	memcpy(frame + 26, key, 4);
	memcpy(frame + 34, key + 4, 2);
}

static void fill_ring(struct pipeline *p, const struct questions *q, uint64_t from, uint32_t len)
{
	for (uint32_t i = 0; i < RING; i++)
		write_frame(p->umem + (size_t)i * CHUNK + HEADROOM,
			    q->ours + (from + i) % q->count * q->our_len, len);
}

uint64_t pipeline_run(struct pipeline *p, const struct questions *q, uint32_t frame_len,
		      uint64_t *untimed_ns)
{
	const uint64_t before = p->counters[XG_COUNT_stray_forwarded];
	struct xg_frame frames[XG_BURST];
	uint64_t begin;

	for (uint64_t from = 0; from < q->count; from += RING) {
		begin = now_ns();
		fill_ring(p, q, from, frame_len);
		*untimed_ns += now_ns() - begin;
		for (uint32_t at = 0; at < RING; at += XG_BURST) {
			for (uint32_t i = 0; i < XG_BURST; i++) {
				frames[i].data = p->umem + (size_t)(at + i) * CHUNK + HEADROOM;
				frames[i].len = frame_len;
				frames[i].headroom = HEADROOM;
				frames[i].beyond = 0;
			}
			xg_forward_burst(&p->forwarder, frames, XG_BURST);
		}
	}
	return p->counters[XG_COUNT_stray_forwarded] - before;
}

uint64_t pipeline_floors(struct pipeline *p, const struct questions *q, const uint64_t *lines,
			 uint64_t line_count, uint64_t *untimed_ns)
{
	const uint32_t len = p->headers->len;
	uint64_t begin, sum = 0;

	for (uint64_t from = 0; from < q->count; from += RING) {
		begin = now_ns();
		fill_ring(p, q, from, 64);
		*untimed_ns += now_ns() - begin;
		for (uint32_t i = 0; i < RING; i++) {
			uint8_t *frame = p->umem + (size_t)i * CHUNK + HEADROOM;

			sum += lines[(q->lines[(from + i) % q->count] * line_count >> 32) * 8];
			sum += frame[0];
			memcpy(frame + XG_ETH_LEN - len, p->headers->bytes, len);
		}
	}
	return sum;
}
