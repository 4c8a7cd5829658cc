// SPDX-License-Identifier: BSD-2-Clause
/*
 * AES-128 and QUIC connection ids: the vectors of FIPS 197 and of the QUIC-LB draft, each shift,
 * and datagrams of every length in blocks of just their bytes.
 */
#include "quic_lb.h"

#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define DATAGRAMS 200000

static uint64_t state = 7;

static uint32_t below(uint32_t limit)
{
	state = state * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(state >> 33) % limit;
}

static uint32_t from_hex(const char *text, uint8_t *out)
{
	uint32_t len = (uint32_t)strlen(text) / 2;

	for (uint32_t i = 0; i < len; i++)
		assert(sscanf(text + 2 * i, "%2hhx", &out[i]) == 1);
	return len;
}

static void columns_of(const uint8_t *bytes, __u32 block[4])
{
	for (int i = 0; i < 4; i++)
		block[i] = (__u32)bytes[4 * i] << 24 | (__u32)bytes[4 * i + 1] << 16 |
			   (__u32)bytes[4 * i + 2] << 8 | bytes[4 * i + 3];
}

static void check_aes(const char *key_text, const char *plain_text, const char *cipher_text)
{
	uint8_t key[16], plain[16], cipher[16];
	__u32 keys[XG_AES_WORDS], block[4], expected[4];

	from_hex(key_text, key);
	from_hex(plain_text, plain);
	from_hex(cipher_text, cipher);
	xg_aes128_expand(key, keys);
	columns_of(plain, block);
	columns_of(cipher, expected);
	xg_aes128_encrypt(keys, block);
	assert(memcmp(block, expected, sizeof(block)) == 0);
	xg_aes128_decrypt(keys, block);
	columns_of(plain, expected);
	assert(memcmp(block, expected, sizeof(block)) == 0);
}

/* FIPS 197: the last words of the key expansion of appendix A.1, and appendices B and C.1. */
static void test_the_vectors_of_fips_197(void)
{
	uint8_t key[16];
	__u32 keys[XG_AES_WORDS];

	from_hex("2b7e151628aed2a6abf7158809cf4f3c", key);
	xg_aes128_expand(key, keys);
	assert(keys[4] == 0xa0fafe17 && keys[40] == 0xd014f9a8 && keys[43] == 0xb6630ca6);
	check_aes("2b7e151628aed2a6abf7158809cf4f3c", "3243f6a8885a308d313198a2e0370734",
		  "3925841d02dc09fbdc118597196a0b32");
	check_aes("000102030405060708090a0b0c0d0e0f", "00112233445566778899aabbccddeeff",
		  "69c4e0d86a7b0430d8cdb78070b4c55a");
}

static void test_decryption_inverts_encryption(void)
{
	for (int i = 0; i < 20000; i++) {
		uint8_t key[16];
		__u32 keys[XG_AES_WORDS], block[4], before[4];

		for (int j = 0; j < 16; j++)
			key[j] = (uint8_t)below(256);
		for (int j = 0; j < 4; j++)
			before[j] = block[j] = below(UINT32_MAX);
		xg_aes128_expand(key, keys);
		xg_aes128_encrypt(keys, block);
		assert(memcmp(block, before, sizeof(block)) != 0);
		xg_aes128_decrypt(keys, block);
		assert(memcmp(block, before, sizeof(block)) == 0);
	}
}

/* What an id's body opens to; the first 16 bytes, of which the server id is no more than 15. */
static void check_id(const char *key_text, const char *server_id, const char *nonce,
		     const char *id_text)
{
	uint8_t key[16], plain[40] = { 0 }, id[24] = { 0 };
	uint32_t server_id_len = from_hex(server_id, plain);
	uint32_t nonce_len = from_hex(nonce, plain + server_id_len);
	uint32_t len = from_hex(id_text, id);
	struct xg_quic_lb layout;
	struct xg_quic_bits opened;
	__u64 text[XG_QUIC_ID_WORDS];

	assert(len == 1 + server_id_len + nonce_len);
	if (key_text)
		from_hex(key_text, key);
	assert(xg_quic_lb_init(&layout, (__u8)server_id_len, (__u8)nonce_len,
			       key_text ? key : NULL) == 0);
	memcpy(text, id, sizeof(text));
	assert(xg_quic_take_first(text) == id[0]);
	opened = xg_quic_open(&layout, text, len - 1);
	for (uint32_t i = 0; i < server_id_len; i++)
		assert((uint8_t)((i < 8 ? opened.high >> (56 - 8 * i) :
					  opened.low >> (120 - 8 * i))) == plain[i]);
}

/* Appendix B, and the example of section 5.4.2; what is misprinted in the draft is put right, see
 * tests/unit/test_quic_lb.py. */
static void test_the_vectors_of_the_draft(void)
{
	static const char key[] = "8f95f09245765f80256934e50c66207f";

	check_id(NULL, "c4605e", "4504cc4f", "07c4605e4504cc4f");
	check_id(NULL, "350d28b420", "3487d970b0", "2a350d28b4203487d970b0");
	check_id(key, "ed793a", "ee080dbf", "0720b1d07b359d3c");
	check_id(key, "ed793a51d49b8f5fab65", "ee080dbf48", "2fcc381bc74cb4fbad2823a3d1f8fed2");
	check_id(key, "ed793a51d49b8f5f", "ee080dbf48c0d1e5",
		 "504dd2d05a7b0de9b2b9907afb5ecf8cc3");
	check_id(key, "ed793a51d49b8f5fab", "ee080dbf48c0d1e55d",
		 "725779c9cc86beb3a3a4a3ca96fce4bfe0cdbc");
	check_id("fdf726a9893ec05c0632d3956680baf0", "31441a", "9c69c275", "0767947d29be054a");
}

static void test_lengths_that_are_no_ids_are_refused(void)
{
	struct xg_quic_lb layout;

	for (int server_id = 0; server_id < 25; server_id++)
		for (int nonce = 0; nonce < 25; nonce++) {
			int ok = server_id >= 2 && server_id <= 15 && nonce >= 4 &&
				 server_id + nonce <= 19;

			assert(xg_quic_lb_init(&layout, (__u8)server_id, (__u8)nonce, NULL) ==
			       (ok ? 0 : -EINVAL));
		}
}

/* Layouts of every shape, and memory that holds anything; AddressSanitizer and UBSan look on. */
static void test_any_datagram_is_read_within_its_bounds(void)
{
	static struct xg_quic_lb layouts[XG_QUIC_LAYOUTS];
	uint32_t named = 0;

	for (uint32_t i = 0; i < DATAGRAMS; i++) {
		uint32_t len = below(40);
		uint8_t *datagram = malloc(len ? len : 1), key[16] = { (uint8_t)i };
		struct xg_quic_lb *layout = &layouts[below(XG_QUIC_LAYOUTS)];
		__u8 server_id = (__u8)(2 + below(14));

		if (below(2))
			for (uint32_t j = 0; j < sizeof(*layout); j++)
				((uint8_t *)layout)[j] = (uint8_t)below(256);
		else if (server_id < 15)
			xg_quic_lb_init(layout, server_id, (__u8)(4 + below(16u - server_id)),
					below(2) ? key : NULL);
		for (uint32_t j = 0; j < len; j++)
			datagram[j] = (uint8_t)below(4) ? (uint8_t)below(256) : 0;
		if (len > 5 && below(2)) {
			memcpy(datagram + 1, "\0\0\0\1", 4);
			datagram[5] = (uint8_t)below(24);
		}
		int owner = xg_quic_owner(layouts, datagram, len);

		assert(owner >= XG_QUIC_NOBODY && owner <= XG_HOST_MAX);
		named += owner >= 0;
		free(datagram);
	}
	assert(named > 100);
}

int main(void)
{
	test_the_vectors_of_fips_197();
	test_decryption_inverts_encryption();
	test_the_vectors_of_the_draft();
	test_lengths_that_are_no_ids_are_refused();
	test_any_datagram_is_read_within_its_bounds();
	puts("ok");
	return 0;
}
