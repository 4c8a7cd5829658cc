# SPDX-License-Identifier: BSD-2-Clause
"""Umem, XskSocket and XskProgram on a real link: bursts, sharing, wakeups, and the way down."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyxdp_gossip import bpf_object, netlink
from pyxdp_gossip.bpf_object import BpfObject
from pyxdp_gossip.errors import HostError
from pyxdp_gossip.xsk import Umem, XskProgram, XskSocket
from tests.kernel.conftest import Namespace
from tests.kernel.xsk_link import (
    FAR,
    NEAR,
    WAIT_S,
    End,
    Pair,
    end,
    give,
    make_pair,
    number_of,
    payload,
    receive,
    send,
    until,
)

STARTS = 50


@pytest.fixture
def pair(netns: Callable[[str], Namespace]) -> Pair:
    return make_pair(netns)


@pytest.fixture(params=["copy", "skb", "auto"])
def ends(pair: Pair, request: pytest.FixtureRequest) -> Iterator[tuple[End, End]]:
    with (
        end(pair.near, NEAR, mode=request.param, rx_size=64, tx_size=64) as near,
        end(pair.far, FAR, mode=request.param, rx_size=64, tx_size=64) as far,
    ):
        assert near.socket.mode == {"auto": "copy"}.get(request.param, request.param)
        assert near.program.mode == ("skb" if request.param == "skb" else "native")
        yield near, far


def upper(one: End) -> list[int]:
    """The frames that `end` did not give to the kernel."""
    return [n * one.umem.frame_size for n in range(one.umem.frames // 2, one.umem.frames)]


def test_many_bursts_arrive_in_order_and_the_rings_wrap(ends: tuple[End, End]) -> None:
    near, far = ends
    sent = 0
    for burst in (1, 31, 64, 7, 64, 33) * 8:  # 1600 frames over rings of 64
        frames = [payload(sent + n, 60 + n) for n in range(burst)]
        send(near.socket, near.umem, frames, upper(near)[:burst])
        assert receive(far.socket, far.umem, burst) == frames
        sent += burst
    assert sent > 20 * far.socket.rx.size
    for one in ends:
        counted = one.socket.statistics()
        assert (counted.rx_dropped, counted.rx_ring_full) == (0, 0)
        assert (counted.rx_invalid_descs, counted.tx_invalid_descs) == (0, 0)


def test_frames_go_both_ways_in_place(ends: tuple[End, End]) -> None:
    near, far = ends
    send(near.socket, near.umem, [payload(7)], upper(near)[:1])
    assert far.socket.wait(WAIT_S)
    [(address, length)] = far.socket.rx.peek(8)
    far.socket.rx.release(1)
    assert address % far.umem.frame_size == 256, "the kernel's headroom is free for headers"
    far.umem.frame(address, length)[14:18] = (8).to_bytes(4)
    far.socket.tx.reserve(1)
    far.socket.tx.write([(address, length)])
    far.socket.tx.submit(1)
    while not far.socket.completion.available:
        far.socket.wakeup()
    assert far.socket.completion.peek(8) == [address]
    assert number_of(receive(near.socket, near.umem, 1)[0]) == 8


def test_buffers_of_words_do_what_lists_do(ends: tuple[End, End]) -> None:
    near, far = ends
    addresses, words = upper(near)[:3], array("Q")
    for number, address in enumerate(addresses):
        near.umem.frame(address, 60)[:] = payload(number)
        words.extend((address, 60))
    assert near.socket.tx.reserve(3) == 3
    near.socket.tx.write(words)
    near.socket.tx.submit(3)
    done = array("Q", bytes(8 * 8))
    while near.socket.completion.available < 3:
        near.socket.wakeup()
    assert near.socket.completion.peek_into(done) == 3
    assert list(done[:3]) == addresses
    found = array("Q", bytes(16 * 8))
    count = 0
    while count < 3:
        assert far.socket.wait(WAIT_S)
        count += far.socket.rx.peek_into(memoryview(found)[2 * count :])
    seen = [far.umem.frame(found[2 * n], found[2 * n + 1]) for n in range(3)]
    assert [number_of(frame) for frame in seen] == [0, 1, 2]
    far.socket.rx.release(3)
    assert far.socket.fill.reserve(3) == 3
    far.socket.fill.write(found[0:6:2])
    far.socket.fill.submit(3)


@pytest.mark.parametrize("mode", ["copy", "skb"])
def test_two_queues_share_a_umem_and_each_has_rings_of_its_own(pair: Pair, mode: str) -> None:
    """A frame that came to one queue leaves by the other without a copy."""
    with (
        end(pair.near, NEAR, mode=mode) as near,
        end(pair.far, FAR, mode=mode) as far,
        pair.far.run(lambda: XskSocket(far.umem, FAR, 1, mode=mode)) as other,
    ):
        far.program.add(other)
        rings = {*vars_of(far.socket), *vars_of(other)}
        assert len(rings) == 8
        send(near.socket, near.umem, [payload(5)], upper(near)[:1])
        assert far.socket.wait(WAIT_S)
        [(address, length)] = far.socket.rx.peek(1)
        far.socket.rx.release(1)
        other.tx.reserve(1)
        other.tx.write([(address, length)])
        other.tx.submit(1)
        while not other.completion.available:
            other.wakeup()
        assert far.socket.completion.available == 0
        assert other.completion.peek(1) == [address]
        far.socket.close()  # the first socket goes, the second lives on with the registration
        assert other.statistics().tx_invalid_descs == 0
        with pytest.raises(HostError, match="had the first socket of this Umem"):
            pair.far.run(lambda: XskSocket(far.umem, FAR, 0, mode=mode))


def test_the_first_sockets_frames_reach_the_stack_once_it_is_closed(pair: Pair) -> None:
    """The kernel keeps it bound for the Umem's other socket: only the map lets its frames go."""
    with (
        end(pair.near, NEAR, mode="copy") as near,
        end(pair.far, FAR, mode="copy") as far,
        pair.far.run(lambda: XskSocket(far.umem, FAR, 1)),
    ):
        send(near.socket, near.umem, [payload(1)], upper(near)[:1])
        assert len(receive(far.socket, far.umem, 1)) == 1
        before = passed(pair.far)
        far.socket.close()
        send(near.socket, near.umem, [payload(2)], upper(near)[:1])
        until(lambda: passed(pair.far) == before + 1)


def vars_of(socket: XskSocket) -> set[int]:
    at = socket.addresses
    return {at.rx, at.tx, at.fill, at.completion}


def test_all_sockets_of_a_umem_are_alike(pair: Pair) -> None:
    def make() -> None:
        with Umem(64) as umem, XskSocket(umem, NEAR, mode="copy"):
            with pytest.raises(ValueError, match="all of one Umem are alike"):
                XskSocket(umem, NEAR, 1, fill_size=64)
            with pytest.raises(ValueError, match='other sockets have "copy"'):
                XskSocket(umem, NEAR, 1, mode="zero-copy")
            XskSocket(umem, NEAR, 1, mode="auto").close()
            with pytest.raises(HostError, match="it has a socket of this Umem"):
                XskSocket(umem, NEAR, 0)

    pair.near.run(make)


@pytest.mark.parametrize("several", [False, True])
def test_the_first_socket_of_a_umem_chooses_how_many_buffers_a_frame_may_have(
    pair: Pair, several: bool
) -> None:
    """The kernel asks the Umem, whatever the second socket wants."""

    def make() -> None:
        with (
            Umem(64) as umem,
            XskSocket(umem, NEAR, mode="copy", several_buffers=several) as first,
            XskSocket(umem, NEAR, 1, mode="copy", several_buffers=not several) as second,
        ):
            assert second.buffers == first.buffers
            assert (first.buffers > 1) == several

    pair.near.run(make)


def test_a_socket_without_frames_counts_what_it_cannot_take(pair: Pair) -> None:
    with end(pair.near, NEAR, mode="copy") as near, end(pair.far, FAR, mode="copy") as far:
        taken = far.umem.frames // 2
        frames = [payload(n) for n in range(taken + 1)]
        for frame in frames:
            send(near.socket, near.umem, [frame], upper(near)[:1])
        assert receive_without_refill(far, taken) == frames[:taken]
        until(lambda: far.socket.statistics().rx_dropped == 1)
        assert far.socket.statistics().rx_fill_ring_empty == 1
        give(far.socket, upper(far)[:1])
        send(near.socket, near.umem, [payload(9999)], upper(near)[:1])
        assert number_of(receive(far.socket, far.umem, 1)[0]) == 9999


def receive_without_refill(one: End, count: int) -> list[bytes]:
    frames: list[bytes] = []
    while len(frames) < count:
        assert one.socket.wait(WAIT_S)
        found = one.socket.rx.peek(one.socket.rx.size)
        frames += [bytes(one.umem.frame(*place)) for place in found]
        one.socket.rx.release(len(found))
    return frames


def test_a_full_rx_ring_is_counted(pair: Pair) -> None:
    with (
        end(pair.near, NEAR, mode="copy") as near,
        end(pair.far, FAR, mode="copy", rx_size=4) as far,
    ):
        for number in range(7):
            send(near.socket, near.umem, [payload(number)], upper(near)[:1])
        until(lambda: far.socket.statistics().rx_ring_full == 3)
        assert far.socket.rx.available == 4


def test_more_than_the_kernel_takes_at_once_stays_pending(pair: Pair) -> None:
    """Copy mode sends 32 frames a call: `wakeup` says False until the ring is empty."""
    with end(pair.near, NEAR, mode="copy") as near:
        addresses = upper(near)[:100]
        for address in addresses:
            near.umem.frame(address, 60)[:] = payload(0)
        near.socket.tx.reserve(100)
        near.socket.tx.write([(address, 60) for address in addresses])
        near.socket.tx.submit(100)
        assert near.socket.tx.needs_wakeup
        answers = [near.socket.wakeup()]
        while not answers[-1]:
            answers.append(near.socket.wakeup())
        assert answers.count(False) >= 3
        assert near.socket.completion.available == 100
        pair.near.ip(f"link set {NEAR} down")
        assert near.socket.wakeup() is False


def test_without_a_socket_or_after_removal_frames_reach_the_stack(pair: Pair) -> None:
    with end(pair.near, NEAR, mode="copy") as near, end(pair.far, FAR, mode="copy") as far:
        send(near.socket, near.umem, [payload(1)], upper(near)[:1])
        assert len(receive(far.socket, far.umem, 1)) == 1
        far.program.remove(far.socket)
        before = passed(pair.far)
        send(near.socket, near.umem, [payload(2)], upper(near)[:1])
        until(lambda: passed(pair.far) == before + 1)
        assert far.socket.rx.available == 0
        with pytest.raises(ValueError, match="was not added"):
            far.program.remove(far.socket)
        far.program.add(far.socket)
        send(near.socket, near.umem, [payload(3)], upper(near)[:1])
        assert number_of(receive(far.socket, far.umem, 1)[0]) == 3


def passed(namespace: Namespace) -> int:
    """Frames of no known protocol that the stack of the far end was given."""
    lines = namespace.run(lambda: Path("/proc/thread-self/net/dev").read_text()).splitlines()
    [line] = [one for one in lines if one.strip().startswith(FAR)]
    return int(line.split(":")[1].split()[3])


def test_fifty_starts_leave_nothing_behind(pair: Pair) -> None:
    open_files = len(os.listdir("/proc/self/fd"))

    def once(number: int) -> None:
        index = netlink.link(NEAR).index
        with XskProgram(NEAR) as program, Umem(64) as umem, XskSocket(umem, NEAR) as socket:
            program.add(socket)
            give(socket, [number % 64 * 2048])
            assert bpf_object.attached_mode(index) == "native"
        assert bpf_object.attached_mode(index) is None

    for number in range(STARTS):
        pair.near.run(once, number)
    assert len(os.listdir("/proc/self/fd")) == open_files
    assert xdp_lines(pair.near) == 0


def xdp_lines(namespace: Namespace) -> int:
    """How many devices of the namespace have an XDP program, by `ip`."""
    return namespace.ip("-o link").count("prog/xdp")


def test_whatever_is_closed_first_the_sockets_go_before_the_program(pair: Pair) -> None:
    def in_the_wrong_order() -> None:
        umem = Umem(64)
        socket = XskSocket(umem, NEAR)
        program = XskProgram(NEAR)
        program.add(socket)
        program.close()
        assert socket.fd == -1
        umem.close()
        umem = Umem(64)
        with XskProgram(NEAR) as program:
            socket = XskSocket(umem, NEAR)
            program.add(socket)
            umem.close()
            assert socket.fd == -1
        program.close()
        socket.close()

    pair.near.run(in_the_wrong_order)
    assert xdp_lines(pair.near) == 0


def test_a_closed_socket_refuses_every_call(pair: Pair) -> None:
    with end(pair.near, NEAR, mode="copy") as near:
        socket = near.socket
        frame = near.umem.frame(0, 60)
        socket.close()
        calls: list[Callable[[], object]] = [
            socket.wakeup, socket.statistics, socket.fileno, socket.wait,
            lambda: near.program.add(socket),
            lambda: socket.fill.reserve(1), lambda: socket.fill.submit(0),
            lambda: socket.fill.write([0]), lambda: socket.fill.free,
            lambda: socket.tx.write([(0, 60)]), lambda: socket.tx.needs_wakeup,
            lambda: socket.rx.peek(1), lambda: socket.rx.release(0),
            lambda: socket.rx.available, lambda: socket.completion.peek(1),
            lambda: socket.completion.peek_into(array("Q", [0])),
        ]  # fmt: skip
        for call in calls:
            with pytest.raises(ValueError, match="closed"):
                call()
        near.umem.close()
        frame[:] = payload(1)  # a view outlives the Umem, and holds its memory
        with pytest.raises(ValueError, match="the Umem is closed"):
            near.umem.frame(0, 60)
        with pytest.raises(ValueError, match="the Umem is closed"):
            pair.near.run(lambda: XskSocket(near.umem, NEAR))


def test_what_was_not_reserved_written_or_peeked_is_refused(pair: Pair) -> None:
    with end(pair.near, NEAR, mode="copy", tx_size=8) as near:
        tx, completion = near.socket.tx, near.socket.completion
        wrong: list[Callable[[], object]] = [
            lambda: tx.submit(1), lambda: tx.write([(0, 60)]), lambda: tx.reserve(9),
            lambda: tx.reserve(-1), lambda: completion.release(1), lambda: completion.peek(-1),
        ]  # fmt: skip
        for call in wrong:
            with pytest.raises(ValueError):  # noqa: PT011
                call()
        assert tx.reserve(8) == 8
        assert tx.reserve(1) == 0
        tx.write([(0, 60), (2048, 60)])
        with pytest.raises(ValueError, match=r"0\.\.2"):
            tx.submit(3)
        tx.submit(2)
        with pytest.raises(ValueError, match="7 entries, but only 6 are reserved"):
            tx.write([(0, 60)] * 7)
        while completion.available < 2:
            near.socket.wakeup()
        assert completion.peek(8) == [0, 2048]
        with pytest.raises(ValueError, match=r"0\.\.2"):
            completion.release(3)
        completion.release(2)
        with pytest.raises(ValueError, match=r"0\.\.0"):
            completion.release(1)


@pytest.mark.parametrize(
    "bad",
    [
        (0, 0), (0, 2049), (2047, 2), (1, 2048), (256 * 2048, 60), (256 * 2048 - 1, 2),
        (1 << 63, 60), (0, 1 << 32), (-1, 60), (0, -60), (0, (1 << 64) + 60),
    ],
)  # fmt: skip
def test_a_bad_descriptor_never_reaches_the_kernel(pair: Pair, bad: tuple[int, int]) -> None:
    with end(pair.near, NEAR, mode="copy") as near:
        tx = near.socket.tx
        assert tx.reserve(3) == 3
        for burst in ([bad], [(0, 60), bad], [(0, 60), bad, (0, 60)]):
            with pytest.raises(ValueError):  # noqa: PT011
                tx.write(burst)
            with pytest.raises(ValueError):  # noqa: PT011
                tx.submit(1)
        tx.write([(0, 60), (2048, 2048), (255 * 2048 + 2047, 1)])  # the last bytes are allowed
        assert near.socket.statistics().tx_invalid_descs == 0


class Changing:
    """A descriptor that says something else when it is read again, and does worse meanwhile."""

    def __init__(self, then: Callable[[], object]) -> None:
        self.reads = 0
        self._then = then

    def __iter__(self) -> Iterator[int]:
        self.reads += 1
        self._then()
        return iter((0, 60) if self.reads == 1 else (1 << 40, 60))


def test_what_changes_while_it_is_read_harms_nothing(pair: Pair) -> None:
    with end(pair.near, NEAR, mode="copy") as near:
        tx = near.socket.tx
        tx.reserve(4)
        once = Changing(lambda: None)
        tx.write([once])  # type: ignore[list-item]
        assert once.reads == 1
        tx.submit(1)
        burst = [(0, 60), Changing(lambda: tx.write([(0, 60)])), (0, 60)]
        with pytest.raises(ValueError, match="but only 2 are reserved"):
            tx.write(burst)  # type: ignore[arg-type]
        tx.write([(0, 60)])
        tx.submit(2)
        while near.socket.completion.available < 3:
            near.socket.wakeup()
        assert near.socket.statistics().tx_invalid_descs == 0
        with pytest.raises(ValueError, match="closed"):
            tx.write([Changing(near.socket.close)])  # type: ignore[list-item]


def test_a_map_of_the_users_own_works_as_the_programs(pair: Pair) -> None:
    def start() -> XskSocket:
        return XskSocket(umem, NEAR, mode="copy")

    own = BpfObject("xsk_all")
    other = BpfObject("xsk_all", max_entries={"xsks": 1})
    with Umem(64) as umem, pair.near.run(start) as socket:
        socket.register(own.maps["xsks"])
        socket.register(own.maps["xsks"])
        with pytest.raises(ValueError, match="unregister it first"):
            socket.register(other.maps["xsks"])
        socket.unregister()
        socket.unregister()
        second = pair.near.run(lambda: XskSocket(umem, NEAR, 1))
        with pytest.raises(HostError, match="has 1 places, none for queue 1"):
            second.register(other.maps["xsks"])
    own.close()
    other.close()


def test_a_dropped_socket_is_closed_and_says_so(pair: Pair) -> None:
    umem = Umem(64)
    socket = pair.near.run(lambda: XskSocket(umem, NEAR))
    with pytest.warns(ResourceWarning, match="unclosed AF_XDP socket on near0"):
        del socket
    pair.near.run(lambda: XskSocket(umem, NEAR)).close()


def test_a_dropped_program_is_taken_off_and_says_so(pair: Pair) -> None:
    index = pair.near.run(netlink.link, NEAR).index
    with Umem(64) as umem:
        dropped = [pair.near.run(XskProgram, NEAR)]
        dropped[0].add(pair.near.run(XskSocket, umem, NEAR))
        with pytest.warns(ResourceWarning, match="unclosed XDP program on near0"):
            dropped.clear()
        assert pair.near.run(bpf_object.attached_mode, index) is None
        assert not umem.shared


def test_a_map_that_is_closed_before_its_socket_harms_no_other(pair: Pair) -> None:
    own = BpfObject("xsk_all")
    before = sorted(os.listdir("/proc/self/fd"))
    with Umem(64) as umem, pair.near.run(XskSocket, umem, NEAR) as socket:
        socket.register(own.maps["xsks"])
        fd = own.maps["xsks"].fd
        own.close()
        with open("/dev/null") as other:  # the number is somebody else's by now
            os.dup2(other.fileno(), fd)
        socket.close()
        os.close(fd)
    assert set(os.listdir("/proc/self/fd")) < set(before)
