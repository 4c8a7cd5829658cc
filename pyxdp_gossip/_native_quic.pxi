# SPDX-License-Identifier: BSD-2-Clause
# Included by _native.pyx: layouts of QUIC connection ids, and what they say of a datagram.


QUIC_LAYOUTS = XG_QUIC_LAYOUTS
QUIC_LAYOUT_BYTES = sizeof(xg_quic_lb)


def pack_quic_layout(u8 server_id_length, u8 nonce_length, key=None):
    """`struct xg_quic_lb`, with the key schedule; see _native.pyi."""
    cdef xg_quic_lb layout
    cdef const u8[::1] view = octets(key or b"")
    if key is not None:
        need("key", view.shape[0], 16)
    check(xg_quic_lb_init(&layout, server_id_length, nonce_length, start(view)))
    return PyBytes_FromStringAndSize(<const char *>&layout, sizeof(layout))


def quic_owner(layouts not None, datagram not None):
    """The host that a datagram's connection id names; see _native.pyi."""
    cdef const u8[::1] packed = octets(layouts)
    cdef const u8[::1] view = octets(datagram)
    cdef _Block given = _Block(0, view)
    cdef int owner
    need("layouts", packed.shape[0], XG_QUIC_LAYOUTS * sizeof(xg_quic_lb))
    owner = xg_quic_owner(<const xg_quic_lb *>&packed[0], given.content, <u32>view.shape[0])
    return owner if owner >= 0 else None
