# SPDX-License-Identifier: BSD-2-Clause
"""The codec's digests against the formula of docs/wire-format.md, in plain Python."""

from __future__ import annotations

import hashlib
import struct
from array import array
from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st

from pyxdp_gossip import _native
from pyxdp_gossip.gossip.translation import Dictionary
from pyxdp_gossip.session import Service
from tests.unit.second_decoder import write_records

MODULO = 1 << 64
OWNER, HEARER = 3, 4
SERVICES = [("tcp", 443, "198.51.100.1"), ("udp", 53, "198.51.100.1"), ("tcp", 443, "2001:db8::1")]
OWNERS_SLOTS = (0, 1, 2)
HEARERS_SLOTS = (2, 0, 1)  # of the owner's first, second and third service

Session = tuple[bytes, int, int]  # client address, client port, the owner's slot


def finalise(x: int) -> int:
    """MurmurHash3's fmix64, from its published source."""
    for constant in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x = (x ^ x >> 33) * constant % MODULO
    return x ^ x >> 33


def service_id(protocol: str, port: int, vip: str) -> int:
    address = ip_address(vip).packed
    mapped = bytes(10) + b"\xff\xff" + address if len(address) == 4 else address
    text = f"{protocol} {port} ".encode() + mapped
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def item(salt: int, session: Session) -> int:
    address, port, slot = session
    if len(address) == 4:
        mixed = finalise((int.from_bytes(address, "big") << 16 | port) ^ salt)
    else:
        high, low = struct.unpack(">QQ", address)
        mixed = (finalise(low ^ finalise(high ^ salt)) + port) % MODULO
    return finalise(mixed ^ service_id(*SERVICES[slot]))


def sums_of(salt: int, sessions: set[Session], buckets: int) -> list[int]:
    sums = [0] * buckets
    for session in sessions:
        value = item(salt, session)
        bucket = value * buckets // MODULO  # the high bits
        sums[bucket] = (sums[bucket] + value) % MODULO
    return sums


def log_of(host: int, slots: tuple[int, ...], buckets: int, salt: int) -> _native.OwnershipLog:
    """A codec that numbers the services as it likes, and follows the owner."""
    owners = _native.OwnerStates()
    owners.activate(OWNER)
    owners.activate(HEARER)
    tables = [_native.SessionTable(family, 256, owners) for family in (4, 6)]
    log = _native.OwnershipLog(*tables, host, digest_buckets=buckets)
    services = {
        slot: Service(ip_address(vip), port, protocol)  # type: ignore[arg-type]
        for slot, (protocol, port, vip) in zip(slots, SERVICES, strict=True)
    }
    log.set_services(Dictionary(services).ids())
    log.begin_owner(OWNER, salt)
    return log


def event(kind: int, session: Session) -> bytes:
    """struct xg_event of csrc/xg_types.h: 1 OPEN, 2 CLOSE."""
    address, port, slot = session
    head = bytes([kind, 4 if len(address) == 4 else 6]) + slot.to_bytes(2, "little")
    return head + port.to_bytes(2, "big") + bytes(10) + address.ljust(16, b"\0") + bytes(8)


address = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))
session = st.tuples(address, st.integers(0, 65535), st.integers(0, 2))


@settings(deadline=None)
@given(
    st.sets(session, max_size=40),
    st.sets(session, max_size=10),
    st.integers(0, MODULO - 1),
    st.sampled_from([2, 64, 1024, 8192]),
)
def test_owner_and_hearer_have_the_sums_of_the_page(
    stay: set[Session], go: set[Session], salt: int, buckets: int
) -> None:
    owner = log_of(OWNER, OWNERS_SLOTS, buckets, salt)
    hearer = log_of(HEARER, HEARERS_SLOTS, buckets, salt)
    translation = array("H", HEARERS_SLOTS)
    said = [(1, "OPEN", one) for one in sorted(stay | go)]
    said += [(2, "CLOSE", one) for one in sorted(go - stay)]
    for position, (kind, meaning, one) in enumerate(said, 1):
        owner.absorb(event(kind, one), clock=1, position=position, now_ms=0)
        while owner.pending:
            owner.encode(1400)
        data = write_records([(meaning, *one)])
        hearer.apply(OWNER, data[0], data[4:], translation, clock=1, position=position, now_ms=0)
    expected = sums_of(salt, stay, buckets)
    for log in (owner, hearer):
        assert list(array("Q", log.digest_sums(OWNER))) == expected
        assert log.digest(OWNER) == (sum(expected) % MODULO, len(stay))
        assert log.digest_buckets == buckets


def test_the_finaliser_keeps_zero_and_gives_the_known_value_of_one() -> None:
    assert finalise(0) == 0
    assert finalise(1) == 0xB456BCFC34C2CB2C
