# SPDX-License-Identifier: BSD-2-Clause
# Included by _native.pyx: memory of exactly a frame's size, so that a sanitizer sees one byte more.

from libc.stdlib cimport free, malloc


cdef class _Block:
    """Room in front, then a copy of `content`: one allocation, no byte to spare behind it."""

    cdef u8 *start
    cdef u8 *content

    def __cinit__(self, size_t room, const u8[::1] content):
        self.start = <u8 *>malloc(room + content.shape[0])
        if self.start == NULL:
            raise MemoryError
        memset(self.start, 0, room)
        self.content = self.start + room
        if content.shape[0]:
            memcpy(self.content, &content[0], content.shape[0])

    def __dealloc__(self):
        free(self.start)
