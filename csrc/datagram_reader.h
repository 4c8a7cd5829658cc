/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reads what waits in a UDP socket: many datagrams a system call, with their sources.
 *
 * Belongs to one thread. Nothing allocates after create. Errors are -errno.
 */
#ifndef XG_DATAGRAM_READER_H
#define XG_DATAGRAM_READER_H

#include <stddef.h>

#include "xg_types.h"

#define XG_DATAGRAMS_MAX 64	/* of one call */
#define XG_DATAGRAM_ROOM 2048	/* bytes; a longer datagram is cut */

/* Where a datagram came from. IPv4: the first 4 bytes of `address`, the others 0. */
struct xg_source {
	__u8 address[16];
	__u16 port;		/* host order */
	__u16 family;		/* 4 or 6 */
};

struct xg_datagram {
	const __u8 *data;	/* until the next read */
	size_t len;
	struct xg_source source;
};

struct xg_datagram_reader;

int xg_datagram_reader_create(struct xg_datagram_reader **reader);	/* -ENOMEM */
void xg_datagram_reader_destroy(struct xg_datagram_reader *reader);

/* At most `most` datagrams of a socket of AF_INET or AF_INET6, without waiting. Returns how many,
 * 0 if none waits; or -errno, what the socket or its network reports. */
int xg_datagram_reader_read(struct xg_datagram_reader *reader, int fd, unsigned int most);

/* One of those, 0 <= i < what the last read returned. */
struct xg_datagram xg_datagram_reader_get(const struct xg_datagram_reader *reader, unsigned int i);

/* How many the kernel had dropped for want of room, by the last SO_RXQ_OVFL of this reader's
 * socket: a reader belongs to one socket. */
__u32 xg_datagram_reader_overflows(const struct xg_datagram_reader *reader);

#endif
