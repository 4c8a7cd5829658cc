# SPDX-License-Identifier: BSD-2-Clause
# cython: language_level=3, embedsignature=False
"""The four rings of an AF_XDP socket, in bursts, over the inline functions of <xdp/xsk.h>.

The structs are libxdp's; a ring gets their address. One thread at a time. After `detach` every call
raises, so nothing reads memory that the socket took with it. Python code may run whenever a list is
read or built (`__index__`, the garbage collector), and may detach the ring: so values pass through
a buffer of the ring's own, and the ring is touched only while no Python code can run.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.number cimport PyNumber_Index

ctypedef unsigned int u32
ctypedef unsigned long long u64

cdef extern from "xdp/xsk.h" nogil:
    """
    /* Entries that were not peeked at yet. xsk_cons_nb_avail() looks at the kernel's index only
     * once it has none left; a burst in Python is dear, so here it always looks. */
    static inline __u32 xg_cons_fresh(struct xsk_ring_cons *ring)
    {
        ring->cached_prod = __atomic_load_n(ring->producer, __ATOMIC_ACQUIRE);
        return ring->cached_prod - ring->cached_cons;
    }
    """
    struct xdp_desc:
        u64 addr
        u32 len "len"
        u32 options
    struct xsk_ring_prod:
        u32 size
    struct xsk_ring_cons:
        u32 size
    u32 xg_cons_fresh(xsk_ring_cons *ring) noexcept
    u32 xsk_prod_nb_free(xsk_ring_prod *ring, u32 wanted) noexcept
    u32 xsk_ring_prod__reserve(xsk_ring_prod *ring, u32 count, u32 *index) noexcept
    void xsk_ring_prod__submit(xsk_ring_prod *ring, u32 count) noexcept
    int xsk_ring_prod__needs_wakeup(const xsk_ring_prod *ring) noexcept
    u32 xsk_ring_cons__peek(xsk_ring_cons *ring, u32 count, u32 *index) noexcept
    void xsk_ring_cons__release(xsk_ring_cons *ring, u32 count) noexcept
    u64 *fill_addr "xsk_ring_prod__fill_addr"(xsk_ring_prod *ring, u32 index) noexcept
    xdp_desc *tx_desc "xsk_ring_prod__tx_desc"(xsk_ring_prod *ring, u32 index) noexcept
    const u64 *comp_addr "xsk_ring_cons__comp_addr"(const xsk_ring_cons *r, u32 index) noexcept
    const xdp_desc *rx_desc "xsk_ring_cons__rx_desc"(const xsk_ring_cons *r, u32 index) noexcept


FORKED = "an AF_XDP socket belongs to the process that made it; make one after fork"


cdef u32 count_of(object count, u32 most, object of_what) except? 0xFFFFFFFF:
    count = PyNumber_Index(count)  # no float: C would cut it
    if not 0 <= count <= most:
        raise ValueError(f"count is {count}, expected 0..{most} ({of_what})")
    return count


cdef u64 word_of(object number) except? 0xFFFFFFFFFFFFFFFF:
    try:
        return PyNumber_Index(number)
    except OverflowError:
        raise ValueError(f"{number} is outside the UMEM") from None


cdef class _Ring:
    """The buffer between Python's objects and the ring, and why the ring is closed."""

    cdef u64 *_words
    cdef bint _forked

    cdef int _make_words(self, u32 entries, u32 words_each) except -1:
        self._words = <u64 *>PyMem_Malloc(<size_t>entries * words_each * sizeof(u64))
        if self._words == NULL:
            raise MemoryError
        return 0

    def __dealloc__(self):
        PyMem_Free(self._words)

    cdef int _refuse(self) except -1:
        if self._forked:
            raise RuntimeError(FORKED)
        raise ValueError("the ring is closed: its socket was")


cdef class _Producer(_Ring):
    """What fill and TX ring share: entries are reserved, written, and submitted, in order."""

    cdef xsk_ring_prod *_ring
    cdef u64 _umem_bytes
    cdef u64 _frame_size
    cdef u32 _next  # index of the entry that is written next
    cdef u32 _reserved  # entries that may still be written
    cdef u32 _written  # entries that wait for submit

    cdef int _take(self, size_t address, u64 umem_bytes, u64 frame_size, u32 words) except -1:
        self._ring = <xsk_ring_prod *>address
        self._umem_bytes = umem_bytes
        self._frame_size = frame_size
        if self._ring == NULL:
            self._refuse()
        return self._make_words(self._ring.size, words)

    cdef xsk_ring_prod *_open(self) except NULL:
        if self._ring == NULL:
            self._refuse()
        return self._ring

    def detach(self, bint forked=False):
        self._ring = NULL
        self._forked = forked

    @property
    def size(self):
        return self._open().size

    @property
    def free(self):
        cdef xsk_ring_prod *ring = self._open()
        return xsk_prod_nb_free(ring, ring.size)

    @property
    def needs_wakeup(self):
        return bool(xsk_ring_prod__needs_wakeup(self._open()))

    def reserve(self, count):
        cdef u32 wanted = count_of(count, self._open().size, "the ring's size")
        cdef xsk_ring_prod *ring = self._open()
        cdef u32 index = 0
        if wanted == 0 or xsk_ring_prod__reserve(ring, wanted, &index) != wanted:
            return 0
        if self._reserved == 0:
            self._next = index
        self._reserved += wanted
        return wanted

    def submit(self, count):
        cdef u32 number = count_of(count, self._written, "written and not submitted")
        cdef xsk_ring_prod *ring = self._open()
        if number > self._written:  # the comparison above ran Python code that submitted
            raise ValueError(f"count is {number}, expected 0..{self._written}")
        self._written -= number
        xsk_ring_prod__submit(ring, number)

    cdef int _check_room(self, Py_ssize_t count) except -1:
        self._open()
        if count > self._reserved:
            raise ValueError(f"{count} entries, but only {self._reserved} are reserved")
        return 0

    cdef u32 _load(self, object values, u32 words_each) except? 0xFFFFFFFF:
        """Values to `_words`; how many entries they are. The ring is not touched."""
        cdef const u64[::1] view
        cdef Py_ssize_t count, i
        if not isinstance(values, (list, tuple)):
            view = values
            if view.shape[0] % words_each:
                raise ValueError(f"{view.shape[0]} words, expected {words_each} an entry")
            count = view.shape[0] // words_each
            self._check_room(count)
            for i in range(view.shape[0]):
                self._words[i] = view[i]
            return count
        values = tuple(values)  # it keeps its length, whatever code runs below
        count = len(values)
        self._check_room(count)
        for i in range(count):
            if words_each == 1:
                self._words[i] = word_of(values[i])
            else:
                address, length = values[i]
                self._words[2 * i], self._words[2 * i + 1] = word_of(address), word_of(length)
        self._check_room(count)
        return count

    cdef int _wrote(self, u32 count) except -1:
        self._next += count
        self._reserved -= count
        self._written += count
        return 0


cdef class FillRing(_Producer):
    """Frames for the kernel to receive into; see _rings.pyi."""

    def __cinit__(self, size_t address, u64 umem_bytes, u64 frame_size):
        self._take(address, umem_bytes, frame_size, 1)

    def write(self, addresses not None):
        cdef u32 count = self._load(addresses, 1), i
        for i in range(count):
            if self._words[i] >= self._umem_bytes:
                raise ValueError(f"address {self._words[i]} is outside the UMEM of "
                                 f"{self._umem_bytes} bytes")
        for i in range(count):
            fill_addr(self._ring, self._next + i)[0] = self._words[i]
        self._wrote(count)


cdef class TxRing(_Producer):
    """Frames for the kernel to send; see _rings.pyi."""

    def __cinit__(self, size_t address, u64 umem_bytes, u64 frame_size):
        self._take(address, umem_bytes, frame_size, 2)

    cdef bint _lies_in_one_frame(self, u64 address, u64 length) noexcept:
        """What the kernel checks as well (xp_aligned_validate_desc), and counts as invalid."""
        return (address < self._umem_bytes and 0 < length <= self._frame_size
                and address % self._frame_size + length <= self._frame_size)

    def write(self, descriptors not None):
        cdef u32 count = self._load(descriptors, 2), i
        cdef xdp_desc *descriptor
        for i in range(count):
            if not self._lies_in_one_frame(self._words[2 * i], self._words[2 * i + 1]):
                raise ValueError(f"descriptor {self._words[2 * i]}+{self._words[2 * i + 1]} does "
                                 f"not lie in one frame of {self._frame_size} bytes of the UMEM")
        for i in range(count):
            descriptor = tx_desc(self._ring, self._next + i)
            descriptor.addr = self._words[2 * i]
            descriptor.len = <u32>self._words[2 * i + 1]
            descriptor.options = 0
        self._wrote(count)


cdef class _Consumer(_Ring):
    """What RX and completion ring share: entries are peeked at and released, in order."""

    cdef xsk_ring_cons *_ring
    cdef u32 _peeked  # and not released

    cdef int _take(self, size_t address, u32 words) except -1:
        self._ring = <xsk_ring_cons *>address
        if self._ring == NULL:
            self._refuse()
        return self._make_words(self._ring.size, words)

    cdef xsk_ring_cons *_open(self) except NULL:
        if self._ring == NULL:
            self._refuse()
        return self._ring

    def detach(self, bint forked=False):
        self._ring = NULL
        self._forked = forked

    @property
    def size(self):
        return self._open().size

    @property
    def available(self):
        return xg_cons_fresh(self._open())

    def release(self, count):
        cdef u32 number = count_of(count, self._peeked, "peeked at and not released")
        cdef xsk_ring_cons *ring = self._open()
        if number > self._peeked:  # the comparison above ran Python code that released
            raise ValueError(f"count is {number}, expected 0..{self._peeked}")
        self._peeked -= number
        xsk_ring_cons__release(ring, number)

    cdef u32 _copy(self, u32 index, u32 count) noexcept:
        """Entries to `_words`."""
        return 0

    cdef u32 _peek(self, u32 count) except? 0xFFFFFFFF:
        cdef xsk_ring_cons *ring = self._open()
        cdef u32 index = 0
        xg_cons_fresh(ring)
        count = xsk_ring_cons__peek(ring, count, &index)
        self._copy(index, count)
        self._peeked += count
        return count

    cdef u32 _peek_into(self, u64[::1] words, u32 words_each) except? 0xFFFFFFFF:
        cdef u32 count = min(words.shape[0] // words_each, <Py_ssize_t>self._open().size)
        cdef u32 i
        count = self._peek(count)
        for i in range(count * words_each):
            words[i] = self._words[i]
        return count


cdef class RxRing(_Consumer):
    """Frames that were received; see _rings.pyi."""

    def __cinit__(self, size_t address):
        self._take(address, 2)

    cdef u32 _copy(self, u32 index, u32 count) noexcept:
        cdef u32 i
        for i in range(count):
            self._words[2 * i] = rx_desc(self._ring, index + i).addr
            self._words[2 * i + 1] = rx_desc(self._ring, index + i).len
        return count

    def peek(self, count):
        cdef u32 found = self._peek(count_of(count, self._open().size, "the ring's size")), i
        return [(self._words[2 * i], self._words[2 * i + 1]) for i in range(found)]

    def peek_into(self, words not None):
        return self._peek_into(words, 2)


cdef class CompletionRing(_Consumer):
    """Frames that were sent; see _rings.pyi."""

    def __cinit__(self, size_t address):
        self._take(address, 1)

    cdef u32 _copy(self, u32 index, u32 count) noexcept:
        cdef u32 i
        for i in range(count):
            self._words[i] = comp_addr(self._ring, index + i)[0]
        return count

    def peek(self, count):
        cdef u32 found = self._peek(count_of(count, self._open().size, "the ring's size")), i
        return [self._words[i] for i in range(found)]

    def peek_into(self, words not None):
        return self._peek_into(words, 1)
