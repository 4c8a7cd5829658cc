// SPDX-License-Identifier: BSD-2-Clause
/*
 * libcuckoo's concurrent map, keys of 16 or 40 bytes, hashed with CRC32C as rte_hash's are.
 */
#include "lookup_tables.h"

#include <cstring>

#include <nmmintrin.h>

#include <libcuckoo/cuckoohash_map.hh>

namespace {

template <unsigned Len> struct Key {
	uint64_t words[Len / 8];

	bool operator==(const Key &other) const
	{
		return !memcmp(words, other.words, Len);
	}
};

template <unsigned Len> struct Hash {
	size_t operator()(const Key<Len> &key) const
	{
		uint64_t low = 0, high = 0xffffffff;

		for (uint64_t word : key.words) {
			low = _mm_crc32_u64(low, word);
			high = _mm_crc32_u64(high, word);
		}
		return low | high << 32;
	}
};

template <unsigned Len> using Map = libcuckoo::cuckoohash_map<Key<Len>, uint64_t, Hash<Len>>;

struct Either {
	Map<THEIR_KEY4> *four;
	Map<THEIR_KEY6> *six;
};

template <unsigned Len> Key<Len> copied(const void *key)
{
	Key<Len> made;

	memcpy(made.words, key, Len);
	return made;
}

}

void *cuckoo_make(int family, uint64_t entries)
{
	if (family == 4)
		return new Either{ new Map<THEIR_KEY4>(entries + entries / 4), nullptr };
	return new Either{ nullptr, new Map<THEIR_KEY6>(entries + entries / 4) };
}

void cuckoo_put(void *map, const void *key, uint64_t value)
{
	auto *either = static_cast<Either *>(map);

	if (either->four)
		either->four->insert(copied<THEIR_KEY4>(key), value);
	else
		either->six->insert(copied<THEIR_KEY6>(key), value);
}

int cuckoo_knows(void *map, const void *key)
{
	auto *either = static_cast<Either *>(map);
	uint64_t value;

	if (either->four)
		return either->four->find(copied<THEIR_KEY4>(key), value);
	return either->six->find(copied<THEIR_KEY6>(key), value);
}
