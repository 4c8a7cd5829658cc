# SPDX-License-Identifier: BSD-2-Clause
# cython: language_level=3, embedsignature=False
"""The four rings of an AF_XDP socket, in bursts, over the inline functions of <xdp/xsk.h>.

The structs are libxdp's; a ring gets their address. After `detach` every call says "closed", so
nothing reads memory that the socket took with it. One thread at a time.
"""

ctypedef unsigned int u32
ctypedef unsigned long long u64

cdef extern from "xdp/xsk.h" nogil:
    struct xdp_desc:
        u64 addr
        u32 len "len"
        u32 options
    struct xsk_ring_prod:
        u32 size
    struct xsk_ring_cons:
        u32 size
    u32 xsk_prod_nb_free(xsk_ring_prod *ring, u32 wanted) noexcept
    u32 xsk_cons_nb_avail(xsk_ring_cons *ring, u32 wanted) noexcept
    u32 xsk_ring_prod__reserve(xsk_ring_prod *ring, u32 count, u32 *index) noexcept
    void xsk_ring_prod__submit(xsk_ring_prod *ring, u32 count) noexcept
    int xsk_ring_prod__needs_wakeup(const xsk_ring_prod *ring) noexcept
    u32 xsk_ring_cons__peek(xsk_ring_cons *ring, u32 count, u32 *index) noexcept
    void xsk_ring_cons__release(xsk_ring_cons *ring, u32 count) noexcept
    u64 *fill_addr "xsk_ring_prod__fill_addr"(xsk_ring_prod *ring, u32 index) noexcept
    xdp_desc *tx_desc "xsk_ring_prod__tx_desc"(xsk_ring_prod *ring, u32 index) noexcept
    const u64 *comp_addr "xsk_ring_cons__comp_addr"(const xsk_ring_cons *r, u32 index) noexcept
    const xdp_desc *rx_desc "xsk_ring_cons__rx_desc"(const xsk_ring_cons *r, u32 index) noexcept


cdef u32 count_of(object count, u32 most, object what) except? 0xFFFFFFFF:
    if not 0 <= count <= most:
        raise ValueError(f"{what} is {count}, expected 0..{most}")
    return count


cdef class _Producer:
    """What fill and TX ring share: entries are reserved, written, and submitted, in order."""

    cdef xsk_ring_prod *_ring
    cdef u64 _umem_bytes
    cdef u64 _frame_size
    cdef u32 _next  # index of the entry that is written next
    cdef u32 _reserved  # entries that may still be written
    cdef u32 _written  # of them, those that wait for submit

    def __cinit__(self, size_t address, u64 umem_bytes, u32 frame_size):
        self._ring = <xsk_ring_prod *>address
        self._umem_bytes = umem_bytes
        self._frame_size = frame_size

    cdef xsk_ring_prod *_open(self) except NULL:
        if self._ring == NULL:
            raise ValueError("the ring is closed: its socket was")
        return self._ring

    def detach(self):
        self._ring = NULL

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
        cdef xsk_ring_prod *ring = self._open()
        cdef u32 index = 0
        cdef u32 wanted = count_of(count, ring.size, "count")
        if wanted == 0 or xsk_ring_prod__reserve(ring, wanted, &index) != wanted:
            return 0
        if self._reserved == 0:
            self._next = index
        self._reserved += wanted
        return wanted

    def submit(self, count):
        cdef xsk_ring_prod *ring = self._open()
        cdef u32 number = count_of(count, self._written, "count")
        self._written -= number
        xsk_ring_prod__submit(ring, number)

    cdef int _check_room(self, Py_ssize_t count) except -1:
        self._open()
        if count > self._reserved:
            raise ValueError(f"{count} entries, but only {self._reserved} are reserved")
        return 0

    cdef int _wrote(self, Py_ssize_t count) except -1:
        self._next += <u32>count
        self._reserved -= <u32>count
        self._written += <u32>count
        return 0


cdef class FillRing(_Producer):
    """Frames for the kernel to receive into; see _rings.pyi."""

    def write(self, list addresses not None):
        cdef Py_ssize_t count = len(addresses), i
        cdef u64 address
        self._check_room(count)
        for i in range(count):
            address = addresses[i]
            if address >= self._umem_bytes:
                raise ValueError(f"address {address} is outside the UMEM of {self._umem_bytes}")
        for i in range(count):
            fill_addr(self._ring, self._next + <u32>i)[0] = addresses[i]
        self._wrote(count)


cdef class TxRing(_Producer):
    """Frames for the kernel to send; see _rings.pyi."""

    def write(self, list descriptors not None):
        cdef Py_ssize_t count = len(descriptors), i
        cdef u64 address
        cdef u32 length
        cdef xdp_desc *descriptor
        self._check_room(count)
        for i in range(count):
            address, length = descriptors[i]
            if (length == 0 or address >= self._umem_bytes or length > self._frame_size
                    or address // self._frame_size
                    != (address + length - 1) // self._frame_size):
                raise ValueError(f"descriptor {address}+{length} does not lie in one frame of "
                                 f"{self._frame_size} bytes of the UMEM")
        for i in range(count):
            descriptor = tx_desc(self._ring, self._next + <u32>i)
            descriptor.addr, descriptor.len = descriptors[i]
            descriptor.options = 0
        self._wrote(count)


cdef class _Consumer:
    """What RX and completion ring share: entries are peeked at and released, in order."""

    cdef xsk_ring_cons *_ring
    cdef u32 _peeked

    def __cinit__(self, size_t address):
        self._ring = <xsk_ring_cons *>address

    cdef xsk_ring_cons *_open(self) except NULL:
        if self._ring == NULL:
            raise ValueError("the ring is closed: its socket was")
        return self._ring

    def detach(self):
        self._ring = NULL

    @property
    def size(self):
        return self._open().size

    @property
    def available(self):
        cdef xsk_ring_cons *ring = self._open()
        return xsk_cons_nb_avail(ring, ring.size)

    def release(self, count):
        cdef xsk_ring_cons *ring = self._open()
        cdef u32 number = count_of(count, self._peeked, "count")
        self._peeked -= number
        xsk_ring_cons__release(ring, number)


cdef class RxRing(_Consumer):
    """Frames that were received; see _rings.pyi."""

    def peek(self, count):
        cdef xsk_ring_cons *ring = self._open()
        cdef u32 index = 0, i
        cdef u32 found = xsk_ring_cons__peek(ring, count_of(count, ring.size, "count"), &index)
        self._peeked += found
        return [(rx_desc(ring, index + i).addr, rx_desc(ring, index + i).len)
                for i in range(found)]


cdef class CompletionRing(_Consumer):
    """Frames that were sent; see _rings.pyi."""

    def peek(self, count):
        cdef xsk_ring_cons *ring = self._open()
        cdef u32 index = 0, i
        cdef u32 found = xsk_ring_cons__peek(ring, count_of(count, ring.size, "count"), &index)
        self._peeked += found
        return [comp_addr(ring, index + i)[0] for i in range(found)]
