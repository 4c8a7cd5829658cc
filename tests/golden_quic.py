# SPDX-License-Identifier: BSD-2-Clause
"""The golden packets of QUIC services: what the connection id says, and when it is asked.

The ids are constants, made once with the nonce a1 a2 a3 ... by `quic_lb`, whose oracle are the
vectors of the draft (tests/unit/test_quic_lb.py). Nothing here calls the code under test.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from scapy.packet import Raw

from tests.golden import OVERHEAD, TAGS, Golden, ethernet, ip, patched, row, to_owner, udp
from tests.golden_too_big import df, told
from tests.golden_world import (
    MTU,
    PEER,
    QUIC_PORT,
    SMALL_MTU,
    SMALL_MTU_PEER,
    VLAN_PEER,
    State,
)

FORWARDED, NEW = "quic_forwarded", "passed_udp_new"
V1, V2 = bytes.fromhex("00000001"), bytes.fromhex("6b3343cf")
OTHER_VERSIONS: Final = {
    "version negotiation": "00000000",
    "draft 29": "ff00001d",
    "a version to grease": "1a2a3a4a",
}
# Type bits by version; RFC 9000 section 17.2, RFC 9369 section 3.2.
INITIAL, ZERO_RTT, HANDSHAKE, RETRY = range(4)
TYPES: Final = {V1: (0, 1, 2, 3), V2: (1, 2, 3, 0)}

# By layout: the ids of this host, of PEER and of VLAN_PEER.
IDS: Final = {
    "plain": "080003a1a2a3a4a5a6 080004a1a2a3a4a5a6 080005a1a2a3a4a5a6",
    "four passes": "28783baac61c8477c6 280d7dbdfe6fe305c0 286bba25082ae03949",
    "one block": (
        "508d9f306efc404761c72be25f7daaea71 502f9f9294d24e7ae3c2614d5ea58484d0 "
        "50fe0bdc19aa7e6ad40b692624849d26ff"
    ),
    "four passes, odd": "670257dc7fb8cb25 67502a70e528f167 67cabe8c91210e46",
    "a long server id": (
        "9132ea2039a6758c80bf6d4c7ba327bdf05e 915fe6c86e6db33faac057c2986a25484ff4 "
        "9163986fe3f4df8f66aa2a4f02b147524ec3"
    ),
    "a server id of eight octets": (
        "b30000000000000003a1a2a3a4a5a6a7a8a9aaab b30000000000000004a1a2a3a4a5a6a7a8a9aaab "
        "b30000000000000005a1a2a3a4a5a6a7a8a9aaab"
    ),
}
PEERS_ID = bytes.fromhex("080004a1a2a3a4a5a6")
SEALED_ID = bytes.fromhex("280d7dbdfe6fe305c0")
OWN_ID = bytes.fromhex("080003a1a2a3a4a5a6")
TO_NOBODY: Final = {
    "an active host without a template": "080006a1a2a3a4a5a6",
    "a dead host": "080007a1a2a3a4a5a6",
    "a host that nobody heard of": "080028a1a2a3a4a5a6",
    "the first number that is no host": "08fde9a1a2a3a4a5a6",
    "the mark of nobody": "08ffffa1a2a3a4a5a6",
    "a server id beyond all hosts": "b30000000000010004a1a2a3a4a5a6a7a8a9aaab",
    "a layout that is not there": "c80004a1a2a3a4a5a6",
    "the layout of what is not routable": "e80004a1a2a3a4a5a6",
}


def short(cid: bytes, rest: bytes = bytes(22)) -> bytes:
    """A datagram with a short header; the id's length is not in it."""
    return b"\x41" + cid + rest


def long(version: bytes, kind: int, cid: bytes, length: int | None = None) -> bytes:
    """A datagram with a long header, a source id of eight octets and some payload."""
    first = 0xC0 | TYPES.get(version, TYPES[V1])[kind] << 4
    head = bytes([first]) + version + bytes([len(cid) if length is None else length])
    return head + cid + b"\x08clientid" + bytes(30)


def packet(family: int, datagram: bytes, state: State = State.ABSENT, **fields: Any) -> Any:
    """From the client, whose port chooses the table's answer, to the QUIC service."""
    header = udp(state, **({"dport": QUIC_PORT} | fields))
    return ethernet() / ip(family) / header / Raw(datagram)


def layout_rows() -> Iterator[Golden]:
    """Each layout, in the packets that carry a server's id."""
    for family in (4, 6):
        for layout, ids in IDS.items():
            own, peer, vlan = (bytes.fromhex(one) for one in ids.split())
            for name, make in (
                ("short", short),
                ("v1 handshake", lambda cid: long(V1, HANDSHAKE, cid)),
                ("v2 handshake", lambda cid: long(V2, HANDSHAKE, cid)),
                ("v1 initial", lambda cid: long(V1, INITIAL, cid)),
                ("v2 0-RTT", lambda cid: long(V2, ZERO_RTT, cid)),
            ):
                name = f"IPv{family} QUIC {layout}, {name}"
                yield row(f"{name}, own", packet(family, make(own)), NEW)
                yield to_owner(f"{name}, other", packet(family, make(peer)), FORWARDED, PEER)
                frame = packet(family, make(vlan))
                yield to_owner(f"{name}, behind a VLAN", frame, FORWARDED, VLAN_PEER)


def header_rows() -> Iterator[Golden]:
    """Which packets of PEER's id are routed by it, and which ids name nobody."""
    for name, cid in TO_NOBODY.items():
        yield row(f"QUIC to {name}", packet(4, short(bytes.fromhex(cid))), NEW)
    for version, name in ((V1, "v1"), (V2, "v2")):
        yield row(f"QUIC {name} retry", packet(4, long(version, RETRY, PEERS_ID)), NEW)
        clients = b"\x09" + PEERS_ID[1:]  # says another length than it has
        for kind, word in ((INITIAL, "initial"), (ZERO_RTT, "0-RTT")):
            frame = packet(4, long(version, kind, clients))
            yield row(f"QUIC {name} {word} with a client's id", frame, NEW)
        frame = packet(4, long(version, HANDSHAKE, clients))
        yield to_owner(f"QUIC {name} handshake, random bits", frame, FORWARDED, PEER)
    for name, digits in OTHER_VERSIONS.items():
        frame = packet(4, long(bytes.fromhex(digits), HANDSHAKE, PEERS_ID))
        yield row(f"QUIC {name}", frame, NEW)
    longer = PEERS_ID + b"\xee" * 11
    frame = packet(4, long(V1, HANDSHAKE, longer))
    yield to_owner("QUIC with an id of 20 octets", frame, FORWARDED, PEER)
    yield row("QUIC with an id of 21", packet(4, long(V1, HANDSHAKE, longer + b"\xee")), NEW)
    yield row("QUIC with an id of 8", packet(4, long(V1, HANDSHAKE, PEERS_ID[:-1])), NEW)
    yield row("QUIC without an id", packet(4, long(V1, HANDSHAKE, b"")), NEW)
    yield row("QUIC, one that says 255", packet(4, long(V1, HANDSHAKE, PEERS_ID, 255)), NEW)
    no_fixed_bit = bytes([short(PEERS_ID)[0] & 0xBF]) + short(PEERS_ID)[1:]
    frame = packet(4, no_fixed_bit)
    yield to_owner("QUIC without the fixed bit (RFC 9287)", frame, FORWARDED, PEER)


def cut_rows() -> Iterator[Golden]:
    """Datagrams that end within the id, by their bytes, and by the UDP length alone."""
    for name, whole, needed in (
        ("short", short(PEERS_ID, b""), 10),
        ("sealed", short(SEALED_ID, b""), 10),
        ("handshake", long(V1, HANDSHAKE, PEERS_ID)[:15], 15),
    ):
        for length in range(len(whole) + 1):
            frame = packet(4, whole[:length])
            title = f"QUIC {name}, {length} bytes"
            if length < needed:
                yield row(title, frame, NEW)
            else:
                yield to_owner(title, frame, FORWARDED, PEER)
        frame = bytes(packet(4, whole + bytes(20)))
        for length in (0, 7, 8, 9, 8 + needed - 1):
            cut = patched(frame, 14 + 20 + 4, length.to_bytes(2))
            yield row(f"QUIC {name}, UDP length {length}", cut, NEW)
        cut = patched(frame, 14 + 20 + 4, b"\xff\xff")
        yield to_owner(f"QUIC {name}, a UDP length beyond", cut, FORWARDED, PEER)
        padded = bytes(packet(4, whole[: needed - 1])) + b"\xa6" * 20
        yield row(f"QUIC {name}, the last octet is padding", padded, NEW)


def table_rows() -> Iterator[Golden]:
    """The table's word comes first; an id is asked only where it says nothing."""
    for family in (4, 6):
        name = f"IPv{family} QUIC"
        frame = packet(family, short(PEERS_ID), State.OWN)
        yield row(f"{name}, own by the table", frame, "passed_own")
        frame = packet(family, short(OWN_ID), State.OTHER_VLAN)
        title = f"{name}, another's by the table"
        yield to_owner(title, frame, "stray_forwarded", VLAN_PEER)
        frame = packet(family, short(PEERS_ID), State.UNOWNED_MARK)
        for alive in (True, False):
            title = f"{name}, nobody's by the table, agent {'alive' if alive else 'dead'}"
            yield to_owner(title, frame, FORWARDED, PEER, agent_alive=alive)
            own = packet(family, short(OWN_ID), State.UNOWNED_MARK)
            ending = "passed_unowned" if alive else NEW
            yield row(f"{title}, own by the id", own, ending, agent_alive=alive)
        frame = packet(family, short(PEERS_ID), State.DEAD)
        yield to_owner(f"{name}, a dead host's by the table", frame, FORWARDED, PEER)
        frame = packet(family, short(PEERS_ID), dport=443)
        yield row(f"{name}, to a service without quic", frame, NEW)
        frame = packet(family, short(PEERS_ID))
        yield to_owner(f"{name}, no flood template", frame, FORWARDED, PEER, flood=False)


def _too_big(name: str, family: int, datagram: bytes, mtu: int) -> Golden:
    frame = ethernet() / df(family) / udp(State.ABSENT, dport=QUIC_PORT) / Raw(datagram)
    return row(name, frame, "too_big_answered", output=told(family, bytes(frame), mtu - OVERHEAD))


def shape_and_size_rows() -> Iterator[Golden]:
    """Tags, options, a first fragment; the largest packet that fits, and one byte more."""
    header = udp(State.ABSENT, dport=QUIC_PORT) / Raw(short(SEALED_ID))
    for family in (4, 6):
        for name, tags in TAGS.items():
            frame = ethernet(*tags) / ip(family) / header
            yield to_owner(f"IPv{family} QUIC, {name}", frame, FORWARDED, PEER)
        for host, mtu in ((SMALL_MTU_PEER, SMALL_MTU), (PEER, MTU)):
            cid = b"\x08" + host.to_bytes(2) + b"123456"
            room = mtu - OVERHEAD - (20 if family == 4 else 40) - 8
            name = f"IPv{family} QUIC, MTU {mtu}"
            whole = short(cid, b"").ljust(room, b"\0")
            yield to_owner(f"{name}, just fits", packet(family, whole), FORWARDED, host)
            yield _too_big(f"{name}, a byte too big", family, whole + b"\0", mtu)
    frame = ethernet() / ip(4, options=b"\x01" * 40) / header
    yield to_owner("QUIC behind IPv4 options", frame, FORWARDED, PEER)
    frame = ethernet() / ip(4, flags="MF", id=77) / header
    yield to_owner("QUIC in a first fragment", frame, FORWARDED, PEER)


@cache
def quic_rows() -> tuple[Golden, ...]:
    """All rows of QUIC services; they need no kernel and no socket."""
    return (
        *layout_rows(),
        *header_rows(),
        *cut_rows(),
        *table_rows(),
        *shape_and_size_rows(),
    )
