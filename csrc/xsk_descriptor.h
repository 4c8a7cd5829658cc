/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a TX descriptor must be before the kernel may see it: bytes of the one frame that it is of.
 *
 * A descriptor that crosses its frame or leaves the UMEM has crashed kernels. So the loop knows
 * which frame it holds, and believes no pointer that comes back from elsewhere.
 */
#ifndef XG_XSK_DESCRIPTOR_H
#define XG_XSK_DESCRIPTOR_H

#include <stdbool.h>
#include <stdint.h>

/* `chunk` is the address of the frame's first byte, `address` what is to be sent; neither sum can
 * wrap where it is used. */
static inline bool xg_lies_in_chunk(uint64_t chunk, uint32_t frame_size, uint64_t address,
				    uint32_t len)
{
	return len > 0 && len <= frame_size && address >= chunk &&
	       address - chunk <= frame_size - len;
}

#endif
