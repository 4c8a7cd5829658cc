// SPDX-License-Identifier: BSD-2-Clause
/*
 * A plain AF_XDP forwarder: swaps the MAC addresses and sends every frame back.
 *
 * The loop of the kernel's xdpsock sample with -l: copy mode, need_wakeup, bursts of 64, one
 * queue, the RX frame is the TX frame. `plain_forwarder INTERFACE` runs until SIGTERM or SIGINT;
 * it prints "ready" once the socket is bound.
 */
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <linux/if_link.h>
#include <linux/if_xdp.h>
#include <xdp/xsk.h>

#define FRAMES 4096u		/* xdpsock's default; twice the RX ring */
#define FRAME_BYTES XSK_UMEM__DEFAULT_FRAME_SIZE
#define BURST 64u

struct forwarder {
	struct xsk_umem *umem;
	struct xsk_socket *socket;
	struct xsk_ring_prod fill;
	struct xsk_ring_cons completion;
	struct xsk_ring_cons rx;
	struct xsk_ring_prod tx;
	void *memory;
	uint32_t outstanding;	/* on TX, not completed yet */
};

static volatile sig_atomic_t stopping;

static void stop(int signal_number)
{
	(void)signal_number;
	stopping = 1;
}

static int open_socket(struct forwarder *f, const char *interface)
{
	const struct xsk_socket_config config = {
		.rx_size = XSK_RING_CONS__DEFAULT_NUM_DESCS,
		.tx_size = XSK_RING_PROD__DEFAULT_NUM_DESCS,
		.xdp_flags = XDP_FLAGS_DRV_MODE,
		.bind_flags = XDP_COPY | XDP_USE_NEED_WAKEUP,
	};
	const struct xsk_umem_config umem_config = {
		.fill_size = FRAMES,
		.comp_size = XSK_RING_CONS__DEFAULT_NUM_DESCS,
		.frame_size = FRAME_BYTES,
	};
	size_t bytes = (size_t)FRAMES * FRAME_BYTES;
	uint32_t index;
	int rc;

	f->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (f->memory == MAP_FAILED)
		return -errno;
	rc = xsk_umem__create(&f->umem, f->memory, bytes, &f->fill, &f->completion,
			      &umem_config);
	if (rc)
		return rc;
	rc = xsk_socket__create(&f->socket, interface, 0, f->umem, &f->rx, &f->tx, &config);
	if (rc)
		return rc;
	if (xsk_ring_prod__reserve(&f->fill, FRAMES, &index) != FRAMES)
		return -ENOSPC;
	for (uint32_t i = 0; i < FRAMES; i++)
		*xsk_ring_prod__fill_addr(&f->fill, index + i) = (uint64_t)i * FRAME_BYTES;
	xsk_ring_prod__submit(&f->fill, FRAMES);
	return 0;
}

/* Failures of a wakeup pass: the kernel is busy, the next turn tries again. */
static void wake_tx(const struct forwarder *f)
{
	if (xsk_ring_prod__needs_wakeup(&f->tx))
		sendto(xsk_socket__fd(f->socket), NULL, 0, MSG_DONTWAIT, NULL, 0);
}

static void wake_rx(const struct forwarder *f)
{
	if (xsk_ring_prod__needs_wakeup(&f->fill))
		recvfrom(xsk_socket__fd(f->socket), NULL, 0, MSG_DONTWAIT, NULL, NULL);
}

/* Completed frames go back to the fill ring, which has room for all frames. */
static void complete(struct forwarder *f)
{
	uint32_t from, to, count;

	if (f->outstanding == 0)
		return;
	wake_tx(f);
	count = xsk_ring_cons__peek(&f->completion, BURST, &from);
	if (count == 0)
		return;
	while (xsk_ring_prod__reserve(&f->fill, count, &to) != count)
		wake_rx(f);
	for (uint32_t i = 0; i < count; i++)
		*xsk_ring_prod__fill_addr(&f->fill, to + i) =
			*xsk_ring_cons__comp_addr(&f->completion, from + i);
	xsk_ring_prod__submit(&f->fill, count);
	xsk_ring_cons__release(&f->completion, count);
	f->outstanding -= count;
}

static void swap_macs(uint8_t *frame)
{
	uint8_t source[6];

	memcpy(source, frame + 6, 6);
	memcpy(frame + 6, frame, 6);
	memcpy(frame, source, 6);
}

static void forward(struct forwarder *f)
{
	uint32_t from, to, count;

	complete(f);
	count = xsk_ring_cons__peek(&f->rx, BURST, &from);
	if (count == 0) {
		wake_rx(f);
		return;
	}
	while (xsk_ring_prod__reserve(&f->tx, count, &to) != count)
		complete(f);
	for (uint32_t i = 0; i < count; i++) {
		const struct xdp_desc *in = xsk_ring_cons__rx_desc(&f->rx, from + i);

		swap_macs(xsk_umem__get_data(f->memory, in->addr));
		*xsk_ring_prod__tx_desc(&f->tx, to + i) = (struct xdp_desc){
			.addr = in->addr,
			.len = in->len,
		};
	}
	xsk_ring_prod__submit(&f->tx, count);
	xsk_ring_cons__release(&f->rx, count);
	f->outstanding += count;
}

int main(int argc, char **argv)
{
	struct forwarder forwarder = {};
	int rc;

	if (argc != 2) {
		fprintf(stderr, "usage: %s INTERFACE\n", argv[0]);
		return 2;
	}
	signal(SIGTERM, stop);
	signal(SIGINT, stop);
	rc = open_socket(&forwarder, argv[1]);
	if (rc) {
		fprintf(stderr, "%s: %s\n", argv[1], strerror(-rc));
	} else {
		puts("ready");
		fflush(stdout);
		while (!stopping)
			forward(&forwarder);
	}
	if (forwarder.socket)
		xsk_socket__delete(forwarder.socket);
	if (forwarder.umem)
		xsk_umem__delete(forwarder.umem);
	return rc ? 1 : 0;
}
