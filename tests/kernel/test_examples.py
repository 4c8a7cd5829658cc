# SPDX-License-Identifier: BSD-2-Clause
"""The example programs, run as they are, on a link."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyxdp_gossip import bpf_object, netlink
from tests.kernel.conftest import Namespace
from tests.kernel.xsk_link import FAR, NEAR, Pair, end, make_pair, number_of, receive, send

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LINES = 40
PATIENCE_S = 20.0
COUNT = 500


@pytest.fixture
def pair(netns: Callable[[str], Namespace]) -> Pair:
    return make_pair(netns)


def start(namespace: Namespace, *words: str) -> subprocess.Popen[str]:
    """An example in the namespace; its first word is the file's name."""
    command = [sys.executable, str(EXAMPLES / words[0]), *words[1:]]
    return namespace.run(
        lambda: subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    )


@contextmanager
def running(namespace: Namespace, *words: str) -> Iterator[subprocess.Popen[str]]:
    """An example that says on its first line that it is ready, and is ended afterwards."""
    process = start(namespace, *words)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < LINES


def ipv4(number: int) -> bytes:
    """An IPv4 packet whose addresses and MACs differ, with its number in the payload."""
    ethernet = bytes.fromhex("020000000002 020000000001 0800")
    header = bytes.fromhex("45000032 00000000 4011 0000 0a000001 0a000002")
    return (ethernet + header + number.to_bytes(4)).ljust(64, b"\0")


def test_the_echo_swaps_macs_and_addresses_and_nothing_else(pair: Pair) -> None:
    with running(pair.far, "echo.py", FAR) as echo, end(pair.near, NEAR, mode="copy") as near:
        assert echo.stdout is not None
        assert echo.stdout.readline() == f"{FAR}, queue 0: copy\n"
        half = near.umem.frames // 2 * near.umem.frame_size
        for first in range(0, 6400, 64):  # more than the echo has frames
            frames = [ipv4(first + n) for n in range(64)]
            places = [half + n * near.umem.frame_size for n in range(64)]
            send(near.socket, near.umem, frames, places)
            for frame, back in zip(frames, receive(near.socket, near.umem, 64), strict=True):
                swapped = frame[6:12] + frame[0:6] + frame[12:26] + frame[30:34] + frame[26:30]
                assert back == swapped + frame[34:]
    index = pair.far.run(lambda: netlink.link(FAR).index)
    assert pair.far.run(bpf_object.attached_mode, index) is None, "the program went with it"


def test_the_generator_sends_what_it_says(pair: Pair) -> None:
    with end(pair.far, FAR, mode="copy", frames=4 * COUNT) as far:
        process = start(pair.near, "generate.py", NEAR, str(COUNT), "200", "02:00:00:00:00:02")
        frames = receive(far.socket, far.umem, COUNT)
        output, errors = process.communicate()
        assert (process.returncode, errors) == (0, "")
        assert re.fullmatch(rf"{COUNT} packets, [\d,]+ a second, copy\n", output)
        assert [int.from_bytes(frame[14:22]) for frame in frames] == list(range(COUNT))
        assert {(frame[:6].hex(), len(frame)) for frame in frames} == {("020000000002", 200)}
        assert number_of(frames[0]) == 0


@pytest.mark.parametrize("words", [("echo.py", "nosuch0"), ("generate.py", "nosuch0", "1")])
def test_an_example_without_its_interface_says_which_there_are(
    pair: Pair, words: tuple[str, ...]
) -> None:
    process = start(pair.near, *words)
    _, errors = process.communicate()
    assert process.returncode == 2
    assert errors.startswith("no interface 'nosuch0'; there are: lo, near0\nusage: ")


@pytest.mark.parametrize("name", ["echo.py", "generate.py"])
def test_an_example_without_arguments_says_how_it_is_used(pair: Pair, name: str) -> None:
    process = start(pair.near, name)
    _, errors = process.communicate()
    assert process.returncode == 2
    assert f"usage: {name} INTERFACE" in errors
    assert "Traceback" not in errors


def test_the_echo_answers_an_ordinary_sockets_udp_packet(pair: Pair) -> None:
    pair.near.ip(f"addr add 10.9.0.1/24 dev {NEAR}")
    mac = json.loads(pair.far.ip(f"-j link show dev {FAR}"))[0]["address"]
    pair.near.ip(f"neigh add 10.9.0.2 lladdr {mac} dev {NEAR} nud permanent")
    pair.near.exec(f"ethtool -K {NEAR} tx off")
    pair.near.exec(f"ethtool -L {NEAR} tx 1")  # all to the echo's queue
    with running(pair.far, "echo.py", FAR) as process:
        assert process.stdout is not None
        process.stdout.readline()
        asking = pair.near.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        with asking:
            asking.settimeout(PATIENCE_S)
            asking.bind(("10.9.0.1", 7007))  # the ports are not swapped: it comes back to itself
            asking.connect(("10.9.0.2", 7007))
            asking.send(b"hello")
            assert asking.recv(64) == b"hello"
