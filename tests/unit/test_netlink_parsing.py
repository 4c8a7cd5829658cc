# SPDX-License-Identifier: BSD-2-Clause
"""Netlink messages and mount tables, byte by byte, in every truncation."""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyxdp_gossip.kernel_mounts import mount_points, type_at
from pyxdp_gossip.netlink_socket import (
    NLM_F_ACK_TLVS,
    NetlinkError,
    extended_text,
    host_error,
    messages,
    raise_if_refused,
)
from pyxdp_gossip.sockets_diag import (
    EVENT_OPEN,
    is_aborted_session,
    port_filter,
    slots_of,
    socket_event,
)

SLOTS = slots_of({(ip_address("198.51.100.1"), 443): 7, (ip_address("2001:db8::1"), 443): 8})


def message(kind: int, flags: int, body: bytes) -> bytes:
    whole = struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body
    return whole + bytes(-len(whole) % 4)


def inet_diag(
    source: str, destination: str, remote: int = 50000, family: int = 2, timer: int = 0
) -> memoryview:
    """An inet_diag_msg (linux/inet_diag.h) of a local socket at port 443."""
    body = struct.pack("=BBBB", family, 1, timer, 0) + struct.pack("!HH", 443, remote)
    for text in (source, destination):
        body += ip_address(text).packed.ljust(16, b"\0")
    return memoryview(message(20, 2, body + bytes(32)))


def run_bytecode(code: bytes, port: int) -> bool:
    """The kernel's inet_diag_bc_run, with its audit's bounds as assertions."""
    offset, length = 0, len(code)
    while length > 0:
        operation, yes, no = struct.unpack_from("=BBH", code, offset)
        assert operation in (1, 11)
        assert 4 <= yes <= length + 4
        assert 4 <= no <= length + 4
        assert yes % 4 == no % 4 == 0
        equal = operation == 11 and struct.unpack_from("=H", code, offset + 6)[0] == port
        step = yes if equal else no
        offset, length = offset + step, length - step
    return length == 0


@given(st.sets(st.integers(1, 65535), min_size=1, max_size=50), st.integers(1, 65535))
def test_the_port_filter_accepts_its_ports_and_no_other(ports: set[int], other: int) -> None:
    code = port_filter(sorted(ports))
    assert all(run_bytecode(code, port) for port in ports)
    assert run_bytecode(code, other) == (other in ports)


def test_a_session_of_a_service_becomes_the_event_of_the_c_header() -> None:
    event = socket_event(inet_diag("198.51.100.1", "203.0.113.9"), SLOTS, EVENT_OPEN, 5)
    assert event is not None
    assert event[:4] == struct.pack("=BBH", 1, 4, 7)
    assert event[4:6] == struct.pack("!H", 50000)
    assert event[6:16] == bytes(10)
    assert event[16:32] == bytes((203, 0, 113, 9)) + bytes(12)
    assert event[32:] == struct.pack("=Q", 5)


def test_an_ipv6_session_keeps_its_whole_address() -> None:
    event = socket_event(inet_diag("2001:db8::1", "2001:db8:2::9", family=10), SLOTS, EVENT_OPEN, 5)
    assert event is not None
    assert event[:4] == struct.pack("=BBH", 1, 6, 8)
    assert event[16:32] == ip_address("2001:db8:2::9").packed


def test_a_mapped_session_is_the_same_event_as_a_plain_one() -> None:
    mapped = inet_diag("::ffff:198.51.100.1", "::ffff:203.0.113.9", family=10)
    plain = inet_diag("198.51.100.1", "203.0.113.9")
    assert socket_event(mapped, SLOTS, 1, 5) == socket_event(plain, SLOTS, 1, 5) is not None


@pytest.mark.parametrize(
    "data",
    [
        inet_diag("198.51.100.2", "203.0.113.9"),
        inet_diag("198.51.100.1", "203.0.113.9", timer=3),
        inet_diag("198.51.100.1", "0.0.0.0", remote=0),
    ],
    ids=["another address", "TIME_WAIT", "listener"],
)
def test_what_is_no_live_session_of_a_service_is_no_event(data: memoryview) -> None:
    assert socket_event(data, SLOTS, EVENT_OPEN, 5) is None
    assert not is_aborted_session(data, SLOTS)


@pytest.mark.parametrize("source", ["198.51.100.1", "0.0.0.0"])
def test_an_aborted_session_has_a_client_without_a_port(source: str) -> None:
    assert is_aborted_session(inet_diag(source, "203.0.113.9", remote=0), SLOTS)


@pytest.mark.parametrize("parse", [lambda data: socket_event(data, SLOTS, 1, 5),
                                   lambda data: is_aborted_session(data, SLOTS)])  # fmt: skip
def test_a_truncated_socket_message_is_no_event(parse: Callable[[memoryview], object]) -> None:
    whole = inet_diag("198.51.100.1", "203.0.113.9")
    for length in range(56):
        assert not parse(whole[:length])


def test_messages_of_a_datagram_come_apart_and_a_broken_rest_is_left() -> None:
    parts = [message(16, 0, b"abc"), message(24, 2, b""), message(28, 0, b"12345678")]
    whole = b"".join(parts)
    assert [kind for kind, *_rest in messages(memoryview(whole))] == [16, 24, 28]
    ends = [len(b"".join(parts[: n + 1])) for n in range(3)]
    for length in range(len(whole)):
        found = list(messages(memoryview(whole)[:length]))
        assert len(found) in (sum(end <= length for end in ends), 1 if length >= 19 else 0)
    assert list(messages(memoryview(struct.pack("=IHHII", 0, 1, 0, 0, 0)))) == []


def refusal(code: int, text: bytes = b"", capped: bool = True) -> tuple[memoryview, int]:
    echoed = message(20, 0, b"" if capped else b"12345678")
    body = struct.pack("=i", -code) + echoed
    flags = 0x100 if capped else 0
    if text:
        flags |= NLM_F_ACK_TLVS
        cookie = struct.pack("=HH", 8, 3) + b"abcd"
        body += cookie + struct.pack("=HH", 5 + len(text), 1) + text + b"\0"
    return memoryview(message(2, flags, body)), flags


@pytest.mark.parametrize("capped", [True, False])
def test_a_refusal_carries_the_kernels_own_words(capped: bool) -> None:
    with pytest.raises(NetlinkError) as caught:
        raise_if_refused(*refusal(22, b"Invalid prefix", capped))
    assert caught.value.errno == 22
    assert str(host_error(caught.value, "do it")) == (
        "cannot do it: Invalid argument (Invalid prefix)"
    )


def test_a_truncated_refusal_says_what_is_left() -> None:
    data, flags = refusal(22, b"Invalid prefix", capped=False)
    for length in range(24, len(data)):
        assert "Invalid prefix".startswith(extended_text(data[:length], flags))


def test_an_acknowledgement_is_no_refusal() -> None:
    raise_if_refused(*refusal(0))


@pytest.mark.parametrize("code", [1, 13])
def test_a_missing_privilege_names_the_capability(code: int) -> None:
    with pytest.raises(NetlinkError) as caught:
        raise_if_refused(*refusal(code))
    said = str(host_error(caught.value, "join"))
    assert said == "cannot join: CAP_NET_ADMIN is missing; run as root"


MOUNTS = r"""sysfs /sys sysfs rw,nosuid 0 0
tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nsdelegate 0 0
bpf /sys/fs/bpf bpf rw,mode=700 0 0
none /mnt/a\040b bpf rw 0 0
bpf /mnt/hidden bpf rw 0 0
tmpfs /mnt/hidden tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/sys/fs/bpf", "bpf"),
        ("/sys/fs/bpf/xg/host-3", "bpf"),
        ("/sys/fs/bpfx", "sysfs"),
        ("/mnt/a b/pins", "bpf"),
        ("/mnt/hidden/pins", "tmpfs"),
        ("/sys/fs/cgroup/unified/x", "cgroup2"),
        ("/home", ""),
    ],
)
def test_a_path_lies_on_the_deepest_and_latest_mount(path: str, kind: str) -> None:
    assert type_at(Path(path), mount_points(MOUNTS)) == kind
