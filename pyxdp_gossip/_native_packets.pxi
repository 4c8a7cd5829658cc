# SPDX-License-Identifier: BSD-2-Clause
# Included by _native.pyx: what handles packets and kernel events, beside the table and codec.


# ---- counters: the list of csrc/stats.h ----

cdef extern from *:
    """
    #include "stats.h"

    struct xg_counter_name { const char *name, *action, *sentence; };
    #define XG_NAME_ENDING(name, action, sentence) { #name, #action, sentence },
    #define XG_NAME_SIDE(name, sentence) { #name, "", sentence },
    static const struct xg_counter_name xg_counter_names[] = {
        XG_ENDINGS(XG_NAME_ENDING)
        XG_SIDE_COUNTERS(XG_NAME_SIDE)
    };
    """
    struct xg_counter_name:
        const char *name
        const char *action
        const char *sentence
    const xg_counter_name xg_counter_names[]
    enum:
        XG_COUNTERS
        XG_COUNT_handed_over


def counter_list():
    """The data path's counters in the order of the maps.

    Returns:
        A tuple of (name, action, sentence); the action is "pass", "drop", "tx", or "" for
        counters that end no frame.
    """
    return tuple(
        (
            xg_counter_names[index].name.decode(),
            xg_counter_names[index].action.decode().lower(),
            xg_counter_names[index].sentence.decode(),
        )
        for index in range(XG_COUNTERS)
    )


# ---- EventRing: a BPF ring buffer of struct xg_event ----

cdef class EventRing:
    """Reads a BPF ring buffer of 40-byte `struct xg_event` records in bursts.

    Args:
        fd: the map's descriptor; it must outlive the ring.
        size: the map's max_entries, bytes, a power of two.

    Raises:
        OSError: the ring cannot be mapped.
    """

    cdef xg_event_ring *_ring

    def __cinit__(self, int fd, size_t size):
        check(xg_event_ring_open(fd, size, &self._ring))

    def __dealloc__(self):
        xg_event_ring_close(self._ring)

    def read(self, size_t limit):
        """At most `limit` records, oldest first: (n * 40,) bytes; b"" if there are none."""
        cdef bytearray room = bytearray(limit * sizeof(xg_event))
        cdef u8 *data = room
        cdef size_t count
        with nogil:
            count = xg_event_ring_read(self._ring, <xg_event *>data, limit)
        return bytes(room[:count * sizeof(xg_event)])


# ---- services ----

SERVICE_PLACES = XG_SERVICE_PLACES  # of the BPF map


def service_places(services not None, places=None):
    """The services, and a row of each VIP, as the array that C and BPF search.

    Args:
        services: (n * 24,) bytes of `struct xg_service`, n at most 4096.
        places: of the array, a power of two; None: eight times n, or more.

    Returns:
        (places * 24,) bytes.

    Raises:
        ValueError: no whole number of services, too many, or one of them twice.
    """
    cdef const u8[::1] view = octets(services)
    cdef Py_ssize_t count = view.shape[0] // <Py_ssize_t>sizeof(xg_service), i
    cdef bytearray room
    cdef u8 *out
    cdef int rc
    if view.shape[0] % sizeof(xg_service):
        raise ValueError(f"services are {view.shape[0]} bytes, no multiple of 24")
    if count > XG_SERVICES:
        raise ValueError(f"{count} services, at most {XG_SERVICES}")
    if places is None:
        places = max(8, 1 << (8 * count - 1).bit_length()) if count else 8
    room = bytearray(places * sizeof(xg_service))
    out = room
    for i in range(count):
        rc = xg_service_put_both(<xg_service *>out, places - 1,
                                 <const xg_service *>(&view[i * sizeof(xg_service)]))
        if rc < 0:
            raise ValueError(f"service {i} of {count}: {os.strerror(-rc)}")
    return bytes(room)


# ---- Forwarder: frames in, frames and endings out ----

cdef class Forwarder:
    """Decides and encapsulates bursts of frames on plain buffers, as the AF_XDP loop does.

    Asks no kernel: what it decides is right for frames of which this host's sockets know
    nothing. Not thread-safe.

    Args:
        host: this host's id.
        table4, table6: the session tables.
        owners: the owners' states, the tables' own.
        templates: (n * 128,) bytes of `struct xg_template`; kept, read at each burst.
        services: (n * 24,) bytes of `struct xg_service`.
        flood_template: index into `templates`, or None.
        own_is_known: sessions that the table gives this host are passed, as if its kernel knew
            them.
        quic: (8 * 184,) bytes of `struct xg_quic_lb`, or None; kept, read at each burst.
        can_fragment: what is too big for its path and has no DF is sent in fragments, as by a
            loop; else its sender is told, as by the XDP program alone.
        receiver: a `TunnelReceiver`, which opens tunnel packets for this host; None: they are
            packets as any others.
    """

    cdef xg_forwarder _forwarder
    cdef xg_receiver _receiver
    cdef xg_flood _flood
    cdef u64 _counters[XG_COUNTERS]
    cdef object _keep
    cdef const u8[::1] _templates
    cdef const u8[::1] _services
    cdef const u8[::1] _quic
    cdef const u8[::1] _senders

    def __cinit__(self, u16 host, SessionTable table4 not None, SessionTable table6 not None,
                  OwnerStates owners not None, const u8[::1] templates not None,
                  const u8[::1] services not None, flood_template=None,
                  bint own_is_known=False, const u8[::1] quic=None, bint can_fragment=True,
                  receiver=None):
        if templates.shape[0] % sizeof(xg_template):
            raise ValueError(f"templates are {templates.shape[0]} bytes, no multiple of 128")
        if quic is not None:
            need("quic", quic.shape[0], XG_QUIC_LAYOUTS * sizeof(xg_quic_lb))
            self._forwarder.quic = <const xg_quic_lb *>&quic[0]
        self._keep = (table4, table6, owners)
        self._templates, self._quic = templates, quic
        self._services = service_places(services)
        self._forwarder.host = host
        self._forwarder.table4 = table4._table
        self._forwarder.table6 = table6._table
        self._forwarder.owners = owners._states
        self._forwarder.template_count = templates.shape[0] // sizeof(xg_template)
        self._forwarder.services = <const xg_service *>&self._services[0]
        self._forwarder.service_mask = self._services.shape[0] // sizeof(xg_service) - 1
        if self._forwarder.template_count:
            self._forwarder.templates = <const xg_template *>&templates[0]
        self._flood.group = XG_NO_TEMPLATE if flood_template is None else flood_template
        self._forwarder.flood = &self._flood
        self._forwarder.counters = self._counters
        self._forwarder.own_is_known = own_is_known
        self._forwarder.can_fragment = can_fragment
        if receiver is not None:
            self._receive(receiver)

    cdef _receive(self, receiver):
        """Opens tunnel packets from now on."""
        cdef const u8[::1] address = octets(receiver.address)
        cdef const u8[::1] group = octets(receiver.flood_group)
        cdef const u8[::1] mac = octets(receiver.mac)
        cdef const u8[::1] senders = octets(receiver.senders)
        need("address", address.shape[0], 16)
        need("flood_group", group.shape[0], 16)
        need("mac", mac.shape[0], 6)
        if senders.shape[0] % sizeof(xg_sender):
            raise ValueError(f"senders are {senders.shape[0]} bytes, no multiple of 64")
        memcpy(self._forwarder.address_be, &address[0], 16)
        memcpy(self._forwarder.flood_group_be, &group[0], 16)
        memcpy(self._receiver.mac, &mac[0], 6)
        self._senders = senders
        if senders.shape[0]:
            self._receiver.senders = <const xg_sender *>&senders[0]
        self._receiver.sender_count = senders.shape[0] // sizeof(xg_sender)
        self._forwarder.tunnel_port_be = network16(u16_of("tunnel port", receiver.port))
        self._forwarder.encapsulation = receiver.encapsulation
        self._forwarder.receiver = &self._receiver

    def forward(self, list frames not None):
        """Handles at most 64 frames.

        Args:
            frames: bytes, each from the Ethernet header on.

        Returns:
            A list of (ending, frame): the name of a counter, and the bytes to pass or send. What
            is to be sent in fragments is left as it came: `fragments` makes them.

        Raises:
            ValueError: more than 64 frames.
        """
        cdef xg_frame burst[64]
        cdef Py_ssize_t count = len(frames), index
        cdef _Block block
        cdef list blocks = [_Block(128, octets(frame)) for frame in frames]
        if count > 64:
            raise ValueError(f"{count} frames, at most 64 a burst")
        for index in range(count):
            block = blocks[index]
            burst[index].data = block.content
            burst[index].headroom, burst[index].beyond = 128, 0
            burst[index].len = <u32>len(frames[index])
        self._forwarder.spare_frames = FRAMES_WITHOUT_END
        check(xg_forward_burst(&self._forwarder, burst, count))
        return [
            (
                xg_counter_names[burst[index].ending].name.decode(),
                bytes(frames[index]) if burst[index].pieces
                else <bytes>burst[index].data[:burst[index].len],
            )
            for index in range(count)
        ]

    def fragments(self, frame not None):
        """The frames that a frame is sent in, if `forward` says "fragmented"; else none. Counted.

        Args:
            frame: bytes from the Ethernet header on.
        """
        cdef xg_frame whole, piece
        cdef _Block given = _Block(128, octets(frame))
        cdef _Block out = _Block(128 + len(frame), b"")
        cdef list found = []
        whole.data, whole.headroom, whole.len = given.content, 128, <u32>len(frame)
        whole.beyond = 0
        self._forwarder.spare_frames = FRAMES_WITHOUT_END
        check(xg_forward_burst(&self._forwarder, &whole, 1))
        while whole.pieces:
            piece.data, piece.headroom, piece.len = out.start + 128, 128, <u32>len(frame)
            check(xg_forward_piece(&self._forwarder, &whole, &piece))
            found.append(<bytes>piece.data[:piece.len])
        return found

    def counters(self):
        """Name to count since the forwarder was made."""
        return {
            xg_counter_names[index].name.decode(): self._counters[index]
            for index in range(XG_COUNTERS)
        }
