# SPDX-License-Identifier: BSD-2-Clause
"""What AF_XDP cannot have on this host: one line each that says what to do; and forks."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from pyxdp_gossip import bpf_object, netlink
from pyxdp_gossip.errors import HostError
from pyxdp_gossip.xsk import Umem, XskProgram, XskSocket
from tests.kernel.conftest import Namespace
from tests.kernel.xsk_link import FAR, NEAR, Pair, end, make_pair, payload, receive, send

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pair(netns: Callable[[str], Namespace]) -> Pair:
    return make_pair(netns)


def refused(namespace: Namespace, make: Callable[[], object]) -> str:
    """The one line of the HostError that `make` raises in the namespace."""
    with pytest.raises(HostError) as caught:
        namespace.run(make)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unknown_interface_lists_those_that_are_there(pair: Pair) -> None:
    line = refused(pair.near, lambda: XskSocket(Umem(64), "nosuch0"))
    assert "no interface 'nosuch0'" in line
    assert NEAR in line
    assert "no interface 'nosuch0'" in refused(pair.near, lambda: XskProgram("nosuch0"))


@pytest.mark.parametrize("mode", ["auto", "copy", "zero-copy", "skb"])
def test_a_queue_that_is_not_there_says_which_are(pair: Pair, mode: str) -> None:
    line = refused(pair.near, lambda: XskSocket(Umem(64), NEAR, 2, mode=mode))
    assert "no such queue: there are 2, 0..1" in line


def test_a_busy_queue_says_so_and_the_umem_stays_usable(pair: Pair) -> None:
    with end(pair.near, NEAR), Umem(64) as umem:
        for _ in range(2):
            line = refused(pair.near, lambda: XskSocket(umem, NEAR, 0))
            assert "the queue has an AF_XDP socket already: end the program" in line
        pair.near.run(lambda: XskSocket(umem, NEAR, 1)).close()


def test_forced_zero_copy_on_a_veth_names_the_other_modes(pair: Pair) -> None:
    with Umem(64) as umem:
        line = refused(pair.near, lambda: XskSocket(umem, NEAR, mode="zero-copy"))
        assert 'no zero-copy here: use mode "copy" or "auto"' in line
        socket = pair.near.run(lambda: XskSocket(umem, NEAR, mode="auto"))
        assert socket.mode == "copy"
        socket.close()


@pytest.mark.parametrize(("frame_size", "most"), [(2048, 1770), (4096, 3818)])
def test_an_mtu_that_no_frame_holds_says_what_does(pair: Pair, frame_size: int, most: int) -> None:
    pair.near.ip(f"link set {NEAR} mtu {most + 1}")
    with Umem(64, frame_size=frame_size) as umem:
        line = refused(pair.near, lambda: XskSocket(umem, NEAR))
        assert f"`ip link set {NEAR} mtu {most}`" in line
        assert ("frame_size=4096" in line) == (frame_size == 2048)
        pair.near.ip(f"link set {NEAR} mtu {most}")
        pair.near.run(lambda: XskSocket(umem, NEAR)).close()


def test_an_mtu_too_large_for_native_xdp_names_the_way_out(pair: Pair) -> None:
    pair.far.ip(f"link set {FAR} mtu 9000")
    line = refused(pair.near, lambda: XskProgram(NEAR, mode="native"))
    assert 'lower it, at a veth the peer\'s, or use mode "skb"' in line
    with pair.near.run(lambda: XskProgram(NEAR, mode="skb")) as program:
        assert program.mode == "skb"


def test_another_program_is_named(pair: Pair) -> None:
    with pair.near.run(lambda: XskProgram(NEAR)):
        line = refused(pair.near, lambda: XskProgram(NEAR))
        assert "there now: xg_to_socket" in line


def test_a_program_refuses_sockets_that_do_not_fit_it(pair: Pair) -> None:
    pair.near.ip("link add other0 type veth peer name other1")

    def add() -> None:
        with XskProgram(NEAR) as program, Umem(64) as umem:
            elsewhere = XskSocket(umem, "other0", mode="copy")
            with pytest.raises(ValueError, match="on other0, not on near0"):
                program.add(elsewhere)
            socket = XskSocket(umem, NEAR, mode="skb")
            with pytest.raises(ValueError, match='attach the program with mode="skb"'):
                program.add(socket)
        with pytest.raises(ValueError, match="the program is closed"):
            program.add(socket)

    pair.near.run(add)


def test_an_interface_that_goes_is_an_error_and_not_a_crash(pair: Pair) -> None:
    with end(pair.near, NEAR, mode="copy") as near:
        pair.near.ip(f"link del {NEAR}")
        near.socket.tx.reserve(1)
        near.socket.tx.write([(0, 60)])
        near.socket.tx.submit(1)
        with pytest.raises(HostError, match="the interface is gone"):
            near.socket.wakeup()
        assert near.socket.rx.peek(1) == []


def run_without(capabilities: str, code: str, limit: str = "") -> str:
    """Runs Python code in this namespace without capabilities, under an `ulimit -l` of KiB."""
    child = subprocess.run(
        [
            "bash", "-c", f"{limit} exec setpriv --bounding-set=-{capabilities} --inh-caps="
            f'-{capabilities} "$@"', "bash", sys.executable, "-c", textwrap.dedent(code),
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    return child.stdout.strip()


OPEN = f"""
    import pyxdp_gossip as xg
    try:
        xg.XskSocket(xg.Umem(64), "{NEAR}").close()
        print("opened")
    except xg.HostError as error:
        print(error)
"""
ATTACH = f"""
    import pyxdp_gossip as xg
    try:
        xg.XskProgram("{NEAR}").close()
        print("attached")
    except xg.HostError as error:
        print(error)
"""


def test_without_cap_net_raw_the_line_names_it(pair: Pair) -> None:
    assert pair.near.run(run_without, "sys_time", OPEN) == "opened"
    assert "needs CAP_NET_RAW" in pair.near.run(run_without, "net_raw", OPEN)


def test_without_cap_net_admin_no_program_is_attached_and_the_line_names_it(pair: Pair) -> None:
    assert pair.near.run(run_without, "sys_time", ATTACH) == "attached"
    line = pair.near.run(run_without, "net_admin,-sys_admin", ATTACH)
    assert "CAP_NET_ADMIN" in line
    assert "\n" not in line


def test_locked_memory_that_is_too_little_names_the_limit(pair: Pair) -> None:
    line = pair.near.run(run_without, "ipc_lock", OPEN, "ulimit -l 64;")
    assert "ulimit -l" in line
    assert pair.near.run(run_without, "ipc_lock", OPEN, "ulimit -l 1024;") == "opened"


def in_child(check: Callable[[], None]) -> None:
    """Runs `check` in a process that is forked off here; it must not raise."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            check()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_forked_child_must_not_use_a_socket_and_the_parents_works_on(pair: Pair) -> None:
    with end(pair.near, NEAR, mode="copy") as near, end(pair.far, FAR, mode="copy") as far:

        def child() -> None:
            calls: list[Callable[[], object]] = [
                near.socket.wakeup, near.socket.statistics, near.socket.fileno,
                lambda: near.socket.rx.peek(1), lambda: near.socket.tx.reserve(1),
                lambda: near.socket.fill.free, lambda: near.socket.completion.release(0),
                lambda: near.umem.register(2048, 2048),
            ]  # fmt: skip
            for call in calls:
                with pytest.raises(RuntimeError, match="belongs to the process that made it"):
                    call()
            near.program.close()
            near.socket.close()
            near.umem.close()

        in_child(child)
        send(near.socket, near.umem, [payload(3)], [200 * 2048])
        assert receive(far.socket, far.umem, 1) == [payload(3)]


def test_a_forked_child_that_lives_on_keeps_neither_queue_nor_program(pair: Pair) -> None:
    index = pair.near.run(lambda: netlink.link(NEAR).index)
    until_end, tell_end = os.pipe()
    ready, tell_ready = os.pipe()
    with end(pair.near, NEAR, mode="copy"):
        pid = os.fork()
        if pid == 0:
            os.close(tell_end)
            os.write(tell_ready, b".")
            os.read(until_end, 1)  # until the parent is done
            os._exit(0)
        os.read(ready, 1)
    try:
        assert pair.near.run(bpf_object.attached_mode, index) is None
        with end(pair.near, NEAR, mode="copy") as again:
            assert again.socket.mode == "copy"
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the child lives"
    finally:
        os.close(tell_end)
        os.waitpid(pid, 0)
        for descriptor in (until_end, ready, tell_ready):
            os.close(descriptor)
