/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * recvmmsg into memory of its own.
 */
#define _GNU_SOURCE
#include "datagram_reader.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define CONTROL_ROOM CMSG_SPACE(sizeof(__u32))

struct place {
	struct sockaddr_storage source;
	struct iovec data;
	_Alignas(struct cmsghdr) __u8 control[CONTROL_ROOM];
	__u8 room[XG_DATAGRAM_ROOM];
};

struct xg_datagram_reader {
	__u32 overflows;
	struct mmsghdr messages[XG_DATAGRAMS_MAX];
	struct place places[XG_DATAGRAMS_MAX];
};

int xg_datagram_reader_create(struct xg_datagram_reader **reader)
{
	*reader = calloc(1, sizeof(**reader));
	return *reader ? 0 : -ENOMEM;
}

void xg_datagram_reader_destroy(struct xg_datagram_reader *reader)
{
	free(reader);
}

/* The kernel wrote lengths into what it was given: say anew how much room there is. */
static void prepare(struct xg_datagram_reader *r, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++) {
		struct place *place = &r->places[i];

		place->data = (struct iovec){ place->room, sizeof(place->room) };
		r->messages[i].msg_hdr = (struct msghdr){
			.msg_name = &place->source,
			.msg_namelen = sizeof(place->source),
			.msg_iov = &place->data,
			.msg_iovlen = 1,
			.msg_control = place->control,
			.msg_controllen = sizeof(place->control),
		};
	}
}

static void note_overflows(struct xg_datagram_reader *r, struct msghdr *header)
{
	struct cmsghdr *c;

	for (c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_RXQ_OVFL)
			memcpy(&r->overflows, CMSG_DATA(c), sizeof(r->overflows));
}

int xg_datagram_reader_read(struct xg_datagram_reader *r, int fd, unsigned int most)
{
	int count;

	if (most > XG_DATAGRAMS_MAX)
		most = XG_DATAGRAMS_MAX;
	prepare(r, most);
	do {
		count = recvmmsg(fd, r->messages, most, MSG_DONTWAIT, NULL);
	} while (count < 0 && errno == EINTR);
	if (count < 0)
		return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
	for (int i = 0; i < count; i++)
		note_overflows(r, &r->messages[i].msg_hdr);
	return count;
}

static struct xg_source source_of(const struct sockaddr_storage *from)
{
	struct xg_source source = { .family = 4 };

	if (from->ss_family == AF_INET6) {
		const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)from;

		source.family = 6;
		source.port = ntohs(six->sin6_port);
		memcpy(source.address, &six->sin6_addr, sizeof(six->sin6_addr));
	} else {
		const struct sockaddr_in *four = (const struct sockaddr_in *)from;

		source.port = ntohs(four->sin_port);
		memcpy(source.address, &four->sin_addr, sizeof(four->sin_addr));
	}
	return source;
}

struct xg_datagram xg_datagram_reader_get(const struct xg_datagram_reader *r, unsigned int i)
{
	return (struct xg_datagram){
		.data = r->places[i].room,
		.len = r->messages[i].msg_len,
		.source = source_of(&r->places[i].source),
	};
}

__u32 xg_datagram_reader_overflows(const struct xg_datagram_reader *r)
{
	return r->overflows;
}
