# SPDX-License-Identifier: BSD-2-Clause
"""What tshark reads of gossip on a link, and of a tunnelled packet: an oracle nobody here wrote."""

from __future__ import annotations

import select
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pyxdp_gossip.gossip.messages import Batch, Leaving
from pyxdp_gossip.gossip.sealing import Envelope
from pyxdp_gossip.gossip.wire import DATAGRAM_MAX, PAYLOAD_MAX, DatagramType, encode_message
from pyxdp_gossip.gossip_socket import GossipSocket
from pyxdp_gossip.key_file import Key
from pyxdp_gossip.templates import HeaderTemplate

PORT = 7946
PATIENCE_MS = 10_000  # a frame that comes later than this has not come
LINK_ETHERNET, LINK_RAW = 1, 101  # LINKTYPE_ of the pcap format
FRAME_MAX = 65_535
KEYS = (Key(1, bytes(range(32))),)
GOOD, NOT_THERE = "1", "3"  # tshark's `checksum.status`
ALL_PROTOCOLS = socket.htons(3)  # ETH_P_ALL


class Family(NamedTuple):
    """One IP version's addresses, and what tshark must see of the group."""

    left: str
    right: str
    group: str
    prefix: str
    group_mac: str


FAMILIES = {
    4: Family("10.72.0.1", "10.72.0.2", "239.192.7.1", "/24", "01:00:5e:40:07:01"),
    6: Family("fd72::1", "fd72::2", "ff15::7946", "/64", "33:33:00:00:79:46"),
}
HIGH_BIT_GROUP = ("239.255.135.9", "01:00:5e:7f:87:09")  # RFC 1112 section 6.4


def write_capture(path: Path, frames: list[bytes], link: int = LINK_ETHERNET) -> None:
    """The classic pcap format, little-endian, without times."""
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, FRAME_MAX, link)
    rows = (struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame for frame in frames)
    path.write_bytes(head + b"".join(rows))


def dissect(path: Path, *names: str) -> list[dict[str, str]]:
    """These fields of every frame, by tshark; "" where a frame has none."""
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-E", "separator=|"]
    for option in ("ip.check_checksum", "udp.check_checksum", "tcp.check_checksum"):
        command += ["-o", f"{option}:TRUE"]
    for name in names:
        command += ["-e", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    return [dict(zip(names, line.split("|"), strict=True)) for line in lines]


def tap(device: str) -> socket.socket:
    """Every frame that the device receives, as it came."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, ALL_PROTOCOLS)
    opened.bind((device, 3))
    return opened


class Link:
    """Two hosts with gossip sockets, and a tap on the right one's end."""

    def __init__(self, left: Any, right: Any, family: Family) -> None:
        self.family = family
        group = ip_address(family.group)
        self.one = left.run(GossipSocket, "l0", ip_address(family.left), group, PORT)
        self.two = right.run(GossipSocket, "r0", ip_address(family.right), group, PORT)
        self._tap = right.run(tap, "r0")

    def frames_with(self, datagrams: list[bytes]) -> list[bytes]:
        """The frames that end with these datagrams, in order; neighbour discovery is left out."""
        frames: list[bytes] = []
        poll = select.poll()
        poll.register(self._tap.fileno(), select.POLLIN)
        while len(frames) < len(datagrams):
            assert poll.poll(PATIENCE_MS), f"{len(frames)} of {len(datagrams)} frames came"
            frame = self._tap.recv(FRAME_MAX)
            if frame.endswith(datagrams[len(frames)]):
                frames.append(frame)
        return frames

    def close(self) -> None:
        for opened in (self.one, self.two, self._tap):
            opened.close()


@pytest.fixture
def make_link(
    netns: Callable[[str], Any], veth: Callable[..., None]
) -> Iterator[Callable[[Family], Link]]:
    """Makes a link whose checksums are whole on the wire: no offload leaves them to a card."""
    made: list[Link] = []

    def make(family: Family) -> Link:
        left, right = netns("l"), netns("r")
        veth(left, "l0", right, "r0")
        for namespace, device in ((left, "l0"), (right, "r0")):
            namespace.exec(f"ethtool -K {device} tx off tso off gso off gro off")
        # Even without detection an IPv6 address is tentative until the kernel's worker has run.
        at_once = " nodad" if ":" in family.left else ""
        left.ip(f"addr add {family.left}{family.prefix} dev l0{at_once}")
        right.ip(f"addr add {family.right}{family.prefix} dev r0{at_once}")
        made.append(Link(left, right, family))
        return made[-1]

    yield make
    for link in made:
        link.close()


def sealed_datagrams() -> list[bytes]:
    """The shortest, an ordinary, and the longest."""
    envelope = Envelope(1, 1000, 7, keys=KEYS)
    payloads = [b"", encode_message(Batch(1, 2)) + encode_message(Leaving()), bytes(PAYLOAD_MAX)]
    return [envelope.seal(DatagramType.LOG, payload) for payload in payloads]


def of_family(version: int, *, v4: tuple[str, ...], v6: tuple[str, ...]) -> tuple[str, ...]:
    return v4 if version == 4 else v6


@pytest.mark.parametrize("to", ["group", "host"])
@pytest.mark.parametrize("version", FAMILIES)
def test_tshark_reads_what_was_sealed_in_one_whole_packet_each(
    make_link: Callable[[Family], Link], tmp_path: Path, version: int, to: str
) -> None:
    family = FAMILIES[version]
    link = make_link(family)
    datagrams = sealed_datagrams()
    assert len(datagrams[-1]) == DATAGRAM_MAX
    for data in datagrams:
        link.one.send(None if to == "group" else (family.right, PORT), data)
    capture = tmp_path / "gossip.pcap"
    write_capture(capture, link.frames_with(datagrams))
    source, target = of_family(version, v4=("ip.src", "ip.dst"), v6=("ipv6.src", "ipv6.dst"))
    names = ("udp.payload", "udp.length", "udp.srcport", "udp.dstport", "udp.checksum.status")
    rows = dissect(capture, source, target, *names)
    assert [bytes.fromhex(row["udp.payload"].replace(":", "")) for row in rows] == datagrams
    opened = [Envelope(2, 1, 1, keys=KEYS).open(bytes.fromhex(row["udp.payload"])) for row in rows]
    assert [header.counter for header, _ in opened] == [0, 1, 2]
    for row, data in zip(rows, datagrams, strict=True):
        assert (row[source], row[target]) == (family.left, family[2 if to == "group" else 1])
        assert (row["udp.srcport"], row["udp.dstport"]) == (str(PORT), str(PORT))
        assert row["udp.length"] == str(8 + len(data))
        assert row["udp.checksum.status"] == GOOD


@pytest.mark.parametrize("version", FAMILIES)
def test_a_group_datagram_stays_on_the_link_and_is_not_cut(
    make_link: Callable[[Family], Link], tmp_path: Path, version: int
) -> None:
    family = FAMILIES[version]
    link = make_link(family)
    datagrams = sealed_datagrams()
    for data in datagrams:
        link.one.send(None, data)
    capture = tmp_path / "gossip.pcap"
    write_capture(capture, link.frames_with(datagrams))
    if version == 4:
        names = ("ip.ttl", "ip.checksum.status", "ip.flags.mf", "ip.frag_offset")
        expected = ("1", GOOD, "0", "0")
    else:
        names = ("ipv6.hlim", "ipv6.nxt", "ipv6.fraghdr.offset", "frame.protocols")
        expected = ("1", "17", "", "eth:ethertype:ipv6:udp:data")
    rows = dissect(capture, "eth.dst", *names)
    assert len(rows) == len(datagrams)
    for row in rows:
        assert row["eth.dst"] == family.group_mac
        assert tuple(row[name] for name in names) == expected


def test_the_bits_of_a_group_beyond_23_are_not_in_its_mac_address(
    make_link: Callable[[Family], Link], tmp_path: Path
) -> None:
    group, mac = HIGH_BIT_GROUP
    link = make_link(FAMILIES[4]._replace(group=group, group_mac=mac))
    (data, *_) = sealed_datagrams()
    link.one.send(None, data)
    capture = tmp_path / "gossip.pcap"
    write_capture(capture, link.frames_with([data]))
    assert dissect(capture, "eth.dst", "ip.dst") == [{"eth.dst": mac, "ip.dst": group}]


def test_tshark_notices_a_wrong_checksum(
    make_link: Callable[[Family], Link], tmp_path: Path
) -> None:
    """The oracle itself can fail: one bit of each checksum, turned around."""
    link = make_link(FAMILIES[4])
    (data, *_) = sealed_datagrams()
    link.one.send(None, data)
    (frame,) = link.frames_with([data])
    changed = bytearray(frame)
    changed[24] ^= 1  # of the IPv4 header
    changed[40] ^= 1  # of UDP
    capture = tmp_path / "wrong.pcap"
    write_capture(capture, [bytes(changed)])
    (row,) = dissect(capture, "ip.checksum.status", "udp.checksum.status")
    assert GOOD not in row.values()


CLIENT_FRAMES = {
    4: "020000000003" "0200000000fe" "0800"
       "45000028000040004006b0d8" "cb007109" "c6336401"
       "c73801bb" "00000001" "00000001" "50100400" "00000000",
    6: "020000000003" "0200000000fe" "86dd"
       "6000000000140640" "20010db8000000000000000000000009" "20010db8000000000000000000000001"
       "c73801bb" "00000001" "00000001" "50100400" "00000000",
}  # fmt: skip


@pytest.mark.parametrize("version", FAMILIES)
def test_tshark_reads_both_packets_of_a_tunnelled_one(tmp_path: Path, version: int) -> None:
    frame = bytes.fromhex(CLIENT_FRAMES[version])
    template = HeaderTemplate.build(
        source=IPv4Address("10.8.0.13"), destination=IPv4Address("10.8.0.17"),
        source_mac=bytes.fromhex("020000000003"), destination_mac=bytes.fromhex("020000000007"),
        tunnel_port=6080, cookie=b"cookie!!", mtu=1544,
    )  # fmt: skip
    outer = tmp_path / "outer.pcap"
    write_capture(outer, [template.apply(frame)])
    names = ("eth.src", "eth.dst", "ip.src", "ip.dst", "ip.ttl", "ip.flags.df", "ip.len")
    (row,) = dissect(
        outer, *names, "ip.checksum.status", "udp.dstport", "udp.length", "udp.checksum.status",
        "udp.payload",
    )  # fmt: skip
    inner_len = len(frame) - 14
    assert [row[name] for name in names] == [
        *("02:00:00:00:00:03", "02:00:00:00:00:07", "10.8.0.13", "10.8.0.17"),
        *("64", "1", str(20 + 8 + 16 + inner_len)),
    ]
    assert row["ip.checksum.status"] == GOOD
    assert row["udp.checksum.status"] == NOT_THERE
    assert (row["udp.dstport"], row["udp.length"]) == ("6080", str(8 + 16 + inner_len))
    payload = bytes.fromhex(row["udp.payload"])
    assert payload[8:16] == b"cookie!!"
    assert payload[16:] == frame[14:]
    inner = tmp_path / "inner.pcap"
    write_capture(inner, [payload[16:]], LINK_RAW)
    prefix = "ip" if version == 4 else "ipv6"
    addresses = (f"{prefix}.src", f"{prefix}.dst", "tcp.srcport", "tcp.dstport", "tcp.seq_raw")
    (row,) = dissect(inner, *addresses)
    v4, v6 = ("203.0.113.9", "198.51.100.1"), ("2001:db8::9", "2001:db8::1")
    expected = (*of_family(version, v4=v4, v6=v6), "51000", "443", "1")
    assert tuple(row[name] for name in addresses) == expected
