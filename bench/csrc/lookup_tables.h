/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Other tables of sessions, and keys as they take them: rte_hash, libcuckoo.
 */
#ifndef XG_LOOKUP_TABLES_H
#define XG_LOOKUP_TABLES_H

#include <stddef.h>
#include <stdint.h>

/* Source and destination address, both ports, protocol: 13 and 37 bytes, padded. */
#define THEIR_KEY4 16
#define THEIR_KEY6 40
#define THEIR_KEY_MAX THEIR_KEY6

#ifdef __cplusplus
extern "C" {
#endif

/* `pages`: MADV_HUGEPAGE or MADV_NOHUGEPAGE. NULL: it could not be made, and said why. */
void *rte_make(int family, uint64_t entries, int pages);
int rte_put(void *table, const void *key, uint64_t value);
/* Asks them in bursts; how many are known. */
uint64_t rte_ask(const void *table, const char *questions, size_t len, uint64_t count);

void *cuckoo_make(int family, uint64_t entries);
void cuckoo_put(void *map, const void *key, uint64_t value);
int cuckoo_knows(void *map, const void *key);

#ifdef __cplusplus
}
#endif

#endif
