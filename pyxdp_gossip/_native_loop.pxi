# SPDX-License-Identifier: BSD-2-Clause
# Included by _native.pyx: the AF_XDP loop, its list of flood destinations, and its counters.


cdef extern from "xsk_loop.h" nogil:
    enum:
        XG_QUEUES
        XG_QUEUE_COUNTERS

    struct xg_queue:
        u64 redirected
        u64 consumed
        u64 counters[XG_QUEUE_COUNTERS]

    struct xg_loop_rings:
        xsk_ring_prod *fill
        xsk_ring_cons *completion
        xsk_ring_cons *rx
        xsk_ring_prod *tx
        u8 *umem
        u64 first_frame
        u32 frames
        u32 frame_size
        u32 driver_frames
        u32 buffers
        u32 busy_poll
        u32 always_kick
        u32 burst
        int fd

    struct xg_loop_frames:
        u32 free
        u32 receiving
        u32 sending

    struct xsk_ring_prod
    struct xsk_ring_cons
    struct xg_xsk_loop
    void xg_queue_give_up(xg_queue *queue) noexcept
    int xg_xsk_loop_create(xg_xsk_loop **loop, const xg_loop_rings *rings,
                           const xg_forwarder *forwarder, xg_queue *queue) noexcept
    void xg_xsk_loop_destroy(xg_xsk_loop *loop) noexcept
    void xg_xsk_loop_refill(xg_xsk_loop *loop) noexcept
    u32 xg_xsk_loop_turn(xg_xsk_loop *loop) noexcept
    int xg_xsk_loop_run(xg_xsk_loop *loop) noexcept
    void xg_xsk_loop_shut(xg_xsk_loop *loop) noexcept
    void xg_xsk_loop_stop(xg_xsk_loop *loop) noexcept
    int xg_xsk_loop_frames(const xg_xsk_loop *loop, xg_loop_frames *frames) noexcept


QUEUES = XG_QUEUES
QUEUE_BYTES = sizeof(xg_queue)
FLOOD_COPIES = XG_FLOOD_COPIES


def sum_counters(per_cpu not None, queues not None):
    """The data path's counters, of all CPUs and all queues; see _native.pyi."""
    cdef const u8[::1] cpu_view = octets(per_cpu)
    cdef const u8[::1] queue_view = octets(queues)
    cdef u64 sums[XG_COUNTERS]
    cdef u64 handed_over = 0
    cdef const u64 *words
    cdef const xg_queue *queue
    cdef Py_ssize_t cpus = cpu_view.shape[0] // <Py_ssize_t>sizeof(sums)
    cdef Py_ssize_t count = queue_view.shape[0] // <Py_ssize_t>sizeof(xg_queue)
    cdef Py_ssize_t row, index
    if cpu_view.shape[0] % sizeof(sums) or queue_view.shape[0] % sizeof(xg_queue):
        raise ValueError("counters or queues are no whole number of rows")
    for index in range(XG_COUNTERS):
        sums[index] = 0
    for row in range(cpus):
        words = <const u64 *>(&cpu_view[row * sizeof(sums)])
        for index in range(XG_COUNTERS):
            sums[index] += words[index]
    for row in range(count):
        queue = <const xg_queue *>(&queue_view[row * sizeof(xg_queue)])
        handed_over += queue.redirected
        for index in range(XG_COUNTERS):
            sums[index] += queue.counters[index]
    sums[XG_COUNT_handed_over] = handed_over
    return tuple([sums[index] for index in range(XG_COUNTERS)])


def give_up_queues(u8[::1] queues not None):
    """No queue has a loop from now on; see _native_loop.pyi."""
    cdef Py_ssize_t at
    if queues.shape[0] % sizeof(xg_queue):
        raise ValueError("queues are no whole number of rows")
    for at in range(0, queues.shape[0], sizeof(xg_queue)):
        xg_queue_give_up(<xg_queue *>&queues[at])


cdef class FloodList:
    """Where floods go: to the group, and a copy to each host beyond it; see _native.pyi."""

    cdef xg_flood _list

    def __cinit__(self):
        self._list.group = XG_NO_TEMPLATE

    def set(self, group, copies not None):
        cdef list indices = [u16_of("template index", index) for index in copies]
        if len(indices) > XG_FLOOD_COPIES:
            raise ValueError(f"{len(indices)} copies of a flood, at most {XG_FLOOD_COPIES}")
        self._list.copies = 0
        for place, index in enumerate(indices):
            self._list.to[place] = index
        self._list.group = XG_NO_TEMPLATE if group is None else u16_of("template index", group)
        self._list.copies = <u16>len(indices)

    @property
    def first(self):
        if self._list.group != XG_NO_TEMPLATE:
            return self._list.group
        return self._list.to[0] if self._list.copies else None


cdef class XskLoop:
    """The AF_XDP loop of one RX queue; see _native.pyi."""

    cdef xg_xsk_loop *_loop
    cdef object _keep
    cdef u8[::1] _queue
    cdef const u8[::1] _templates
    cdef const u8[::1] _services
    cdef const u8[::1] _quic
    cdef bint _running

    def __cinit__(self, *, u16 host, SessionTable table4 not None, SessionTable table6 not None,
                  OwnerStates owners not None, const u8[::1] templates not None,
                  const u8[::1] services not None, const u8[::1] quic not None,
                  FloodList flood not None,
                  bytes address not None, u16 tunnel_port, u8 encapsulation, u32 too_big_rate_pps,
                  u8[::1] queue not None,
                  size_t fill, size_t completion, size_t rx, size_t tx, size_t umem,
                  u64 first_frame, u32 frames, u32 frame_size, u32 driver_frames, int fd,
                  bint busy_poll=False, u32 buffers=1, bint always_kick=False, u32 burst=0,
                  keep=None):
        cdef xg_forwarder forwarder
        cdef xg_loop_rings rings
        memset(&forwarder, 0, sizeof(forwarder))  # fields that are not named below say "none"
        need("queue", queue.shape[0], sizeof(xg_queue))
        need("address", len(address), sizeof(forwarder.address_be))
        need("services", services.shape[0], SERVICE_PLACES * sizeof(xg_service))
        self._keep = (table4, table6, owners, flood, keep)
        self._queue, self._templates = queue, templates
        need("quic", quic.shape[0], XG_QUIC_LAYOUTS * sizeof(xg_quic_lb))
        self._services, self._quic = services, quic
        forwarder.table4, forwarder.table6 = table4._table, table6._table
        forwarder.owners = owners._states
        forwarder.templates = <const xg_template *>start(templates)
        forwarder.template_count = templates.shape[0] // sizeof(xg_template)
        forwarder.host = host
        forwarder.tunnel_port_be = int.from_bytes(tunnel_port.to_bytes(2, "big"), "little")
        memcpy(forwarder.address_be, <const u8 *>address, sizeof(forwarder.address_be))
        forwarder.encapsulation = encapsulation
        forwarder.flood = &flood._list
        forwarder.quic = <const xg_quic_lb *>start(quic)
        forwarder.services = <const xg_service *>start(services)
        forwarder.service_mask = services.shape[0] // sizeof(xg_service) - 1
        forwarder.cannot_pass, forwarder.own_is_known = 1, 0
        forwarder.counters = NULL
        forwarder.answers.interval_ns = 1000000000 // too_big_rate_pps if too_big_rate_pps else 0
        forwarder.answers.full_at_ns = 0
        rings.fill, rings.completion = <xsk_ring_prod *>fill, <xsk_ring_cons *>completion
        rings.rx, rings.tx = <xsk_ring_cons *>rx, <xsk_ring_prod *>tx
        rings.umem = <u8 *>umem
        rings.first_frame, rings.frames, rings.frame_size = first_frame, frames, frame_size
        rings.driver_frames, rings.fd, rings.busy_poll = driver_frames, fd, busy_poll
        rings.buffers = buffers
        rings.always_kick, rings.burst = always_kick, burst
        check(xg_xsk_loop_create(&self._loop, &rings, &forwarder, <xg_queue *>&queue[0]))
        xg_xsk_loop_refill(self._loop)

    def __dealloc__(self):
        xg_xsk_loop_destroy(self._loop)

    cdef xg_xsk_loop *_open(self) except NULL:
        if self._loop == NULL:
            raise RuntimeError("the loop is closed")
        return self._loop

    cdef int _rest(self) except -1:
        self._open()
        if self._running:
            raise RuntimeError("the loop runs, in its one thread")
        return 0

    def run(self):
        cdef int rc
        self._rest()
        self._running = True
        with nogil:
            rc = xg_xsk_loop_run(self._loop)
        self._running = False
        check(rc)

    def shut(self):
        xg_xsk_loop_shut(self._open())

    def stop(self):
        xg_xsk_loop_stop(self._open())

    def frames(self):
        cdef xg_loop_frames frames
        self._rest()
        check(xg_xsk_loop_frames(self._loop, &frames))
        return frames.free, frames.receiving, frames.sending

    def close(self):
        if self._loop != NULL:
            self._rest()
            xg_xsk_loop_destroy(self._loop)
            self._loop = NULL
