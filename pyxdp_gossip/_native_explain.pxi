# SPDX-License-Identifier: BSD-2-Clause
# Included by _native.pyx: one frame at a time, for people: explanations and single headers.

cdef extern from "packet_parse.h" nogil:
    enum:
        XG_PARSE_OK

    struct xg_packet:
        u32 source_be[4]
        u32 destination_be[4]
        u16 source_port_be
        u16 destination_port_be
        u16 l3_offset
        u8 family
        u8 protocol
        u8 tcp_flags

    int xg_parse_frame(const void *data, const void *end, xg_packet *packet) noexcept


cdef extern from "header_template.h" nogil:
    enum:
        XG_TEMPLATE_SUM

    u32 xg_outer_ip_len(const xg_template *tmpl, const xg_packet *packet) noexcept
    u32 xg_template_apply(void *dst, const void *end, const xg_template *tmpl,
                          const xg_packet *packet, u8 mark, u32 inner_sum) noexcept
    int xg_inner_sum(const void *l3, const void *end, const xg_packet *packet,
                     u32 *sum) noexcept


cdef extern from "explain.h" nogil:
    enum:
        XG_STEPS_MAX

    enum xg_kernel_answer:
        XG_KERNEL_NOT_ASKED
        XG_KERNEL_KNOWS
        XG_KERNEL_UNKNOWN

    struct xg_step:
        u32 code
        u32 value
        u32 bound

    struct xg_explanation:
        xg_packet packet
        xg_step steps[XG_STEPS_MAX]
        u32 step_count
        u32 sender_be[4]
        u8 has_packet
        u8 is_tunnel

    void xg_explain(const xg_forwarder *forwarder, xg_frame *frame, xg_kernel_answer kernel,
                    xg_explanation *explanation) noexcept


cdef extern from *:
    """
    #define XG_NAME_STEP(name) #name,
    static const char *const xg_step_names[] = { XG_STEPS(XG_NAME_STEP) };
    """
    const char *const xg_step_names[]
    int XG_STEP_CODES


def step_names():
    """The names of all that a step of an explanation can find, in the order of csrc/explain.h."""
    return tuple(xg_step_names[index].decode() for index in range(XG_STEP_CODES))


cdef u32 network16(u16 value) noexcept:
    return (value >> 8) | ((value & 0xFF) << 8)


cdef tuple parsed_fields(const xg_packet *packet):
    """Addresses, ports, protocol and flags of a packet that was parsed."""
    cdef Py_ssize_t first = 12 if packet.family == 4 else 0
    return (
        PyBytes_FromStringAndSize(<const char *>packet.source_be + first, 16 - first),
        network16(packet.source_port_be),
        PyBytes_FromStringAndSize(<const char *>packet.destination_be + first, 16 - first),
        network16(packet.destination_port_be),
        packet.protocol,
        packet.tcp_flags,
    )


def explain_steps(Forwarder forwarder not None, frame not None, kernel_knows=None):
    """What `Forwarder.forward` does with one frame, and the steps to it; counts nothing.

    Args:
        frame: bytes from the Ethernet header on.
        kernel_knows: whether this host's kernel knows the session; None: nobody was asked.

    Returns:
        (ending, frame as it leaves, packet, steps, sender, question). The packet, of a tunnel
        packet the one inside, is None if it cannot be read, else (client, client port, VIP, port,
        IP protocol, TCP flags), of an ICMP error those of the session that it quotes; a step is
        (name, value, bound). The sender is a tunnel packet's outer source, (16,) bytes, or None;
        the question, what the kernel must be asked about: the frame, or what is in its tunnel.
    """
    cdef xg_kernel_answer answer = XG_KERNEL_NOT_ASKED
    cdef xg_explanation found
    cdef xg_frame one
    cdef bytes given = bytes(frame)
    cdef _Block block = _Block(128, given)
    if kernel_knows is not None:
        answer = XG_KERNEL_KNOWS if kernel_knows else XG_KERNEL_UNKNOWN
    one.data = block.content
    one.headroom, one.beyond = 128, 0
    one.len = <u32>len(given)
    one.pieces = 0
    forwarder._forwarder.spare_frames = FRAMES_WITHOUT_END
    xg_explain(&forwarder._forwarder, &one, answer, &found)
    return (
        xg_counter_names[one.ending].name.decode(),
        bytes(frame) if one.pieces else <bytes>one.data[:one.len],
        parsed_fields(&found.packet) if found.has_packet else None,
        [
            (xg_step_names[found.steps[index].code].decode(), found.steps[index].value,
             found.steps[index].bound)
            for index in range(found.step_count)
        ],
        PyBytes_FromStringAndSize(<const char *>found.sender_be, 16) if found.is_tunnel else None,
        framed(given[found.packet.l3_offset:], found.packet.family)
        if found.is_tunnel and found.has_packet else given,
    )


cdef bytes framed(bytes packet, u8 family):
    """An IP packet behind an Ethernet header from nobody to nobody."""
    return bytes(12) + (b"\x08\x00" if family == 4 else b"\x86\xdd") + packet


def apply_template(template not None, frame not None, u8 mark=0):
    """The frame with a template's headers in the place of its Ethernet header.

    Args:
        template: (128,) bytes, `struct xg_template`.
        frame: bytes from the Ethernet header on, with a TCP or UDP packet.
        mark: bits to set in the shim's mark.

    Raises:
        ValueError: the frame cannot be read, or would exceed the template's MTU.
    """
    cdef const u8[::1] packed = octets(template)
    cdef const u8[::1] view = octets(frame)
    cdef const xg_template *tmpl
    cdef xg_packet packet
    cdef _Block given, out
    cdef const u8 *end
    cdef u32 length, written, inner_sum = 0
    need("template", packed.shape[0], sizeof(xg_template))
    tmpl = <const xg_template *>&packed[0]
    given = _Block(0, view)
    end = given.content + view.shape[0]
    if xg_parse_frame(given.content, end, &packet) != XG_PARSE_OK:
        raise ValueError("the frame holds no TCP or UDP packet that can be read")
    length = xg_outer_ip_len(tmpl, &packet)
    if length > tmpl.mtu:
        raise ValueError(f"the outer packet has {length} bytes, the path takes {tmpl.mtu}")
    if tmpl.flags & XG_TEMPLATE_SUM and xg_inner_sum(
            given.content + packet.l3_offset, end, &packet, &inner_sum):
        raise ValueError("the packet has no checksum to derive the outer one from")
    out = _Block(tmpl.len, b"")
    written = xg_template_apply(out.start, out.start + tmpl.len, tmpl, &packet, mark, inner_sum)
    if not written:
        raise ValueError(f"no template of this kind has {tmpl.len} bytes of headers")
    return <bytes>out.start[:tmpl.len] + bytes(view[packet.l3_offset:])
