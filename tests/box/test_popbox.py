# SPDX-License-Identifier: BSD-2-Clause
"""The box itself: it comes up, does what its methods say, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pyxdp_gossip.popbox import Box, BoxError, cgroups, leftovers, proxy
from pyxdp_gossip.popbox.comparison import DemoOptions, _Phase
from pyxdp_gossip.popbox.crowd import Crowd
from pyxdp_gossip.popbox.processes import PACKAGE_PARENT

MakeBox = Callable[..., Box]
Fetch = Callable[[Box, int, int], list[int]]

OTHER_BOX = """
import os, signal, sys
from pyxdp_gossip.popbox import Box
with Box(hosts=2, clients=1) as box:
    print("up", flush=True)
    if sys.argv[1] == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


def other_process(mode: str) -> subprocess.Popen[str]:
    """Another process that has made a box, and then crashed or waits for its input's end."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER_BOX, mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE_PARENT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def processes_in(namespace: str) -> list[int]:
    """Processes whose network namespace it is."""
    inode = Path(f"/run/netns/{namespace}").stat().st_ino
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "ns/net").stat().st_ino == inode:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def traces(pid: int) -> list[str]:
    """Whatever on this machine is named after the box of a process."""
    names = (f"xg{pid}-", f"box-{pid}", f"/xg{pid}")
    mounts = Path("/proc/mounts").read_text().splitlines()
    found = [line for line in mounts if any(name in line for name in names)]
    found += [path.name for path in Path("/run/netns").iterdir() if f"xg{pid}-" in path.name]
    places = (leftovers.box_cgroup(pid), leftovers.pin_folder(pid), leftovers.run_folder(pid))
    return found + [str(place) for place in places if place.exists()]


def root_links() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


def test_nothing_is_left_of_a_box() -> None:
    links = root_links()
    with Box(hosts=3, clients=2) as box:
        assert len([trace for trace in traces(os.getpid()) if trace.startswith("xg")]) == 6
        members = [pid for host in (1, 2, 3) for pid in processes_in(box.host_namespace(host))]
        assert len(members) == 6, "a master and a worker on each host"
        assert root_links() == links, "all links are inside the box"
    assert traces(os.getpid()) == []
    assert [pid for pid in members if not cgroups.has_ended(pid)] == []
    assert root_links() == links


def test_nothing_is_left_of_a_box_whose_body_fails() -> None:
    def fail() -> None:
        with Box(hosts=2) as box:
            box.start_on_client(1, "sleep", ["sleep", "600"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert traces(os.getpid()) == []


def test_nothing_is_left_of_a_box_whose_set_up_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_proxy(*_: object) -> list[tuple[str, list[str], int]]:
        return [("nginx", ["sh", "-c", "echo no such luck >&2; exit 3"], 80)]

    monkeypatch.setattr(proxy, "proxy_commands", broken_proxy)
    with pytest.raises(BoxError, match="nginx of host 1 ended with status 3: no such luck"):
        Box(hosts=2).__enter__()
    assert traces(os.getpid()) == []


def test_a_box_that_crashed_is_cleared_by_the_next_one() -> None:
    crashed = other_process("crash")
    assert crashed.wait() == -signal.SIGKILL
    crashed.communicate()
    assert traces(crashed.pid) != []
    orphans = processes_in(f"xg{crashed.pid}-h1")
    assert orphans != []
    with Box(hosts=2):
        assert traces(crashed.pid) == []
        assert [pid for pid in orphans if not cgroups.has_ended(pid)] == []


def test_a_box_of_a_live_process_is_left_alone() -> None:
    other = other_process("wait")
    try:
        before = traces(other.pid)
        with Box(hosts=2):
            assert traces(other.pid) == before
    finally:
        other.communicate()
    assert other.returncode == 0
    assert traces(other.pid) == []


def test_a_second_box_of_one_process_is_refused(make_box: MakeBox, fetch: Fetch) -> None:
    box = make_box(hosts=2)
    with pytest.raises(BoxError, match="has a box already"):
        Box(hosts=2).__enter__()
    assert set(fetch(box, 4, 4)) <= {1, 2}


@pytest.mark.parametrize("kind", ["nginx", "haproxy"])
@pytest.mark.parametrize("family", [4, 6])
def test_each_host_answers_on_the_vip(
    make_box: MakeBox, fetch: Fetch, kind: str, family: int
) -> None:
    box = make_box(hosts=2, proxy=kind)
    for host in (1, 2):
        box.set_next_hops([host])
        assert fetch(box, family, 2) == [host, host]


@pytest.mark.parametrize("kind", ["plain", "group", "resilient"])
@pytest.mark.parametrize("family", [4, 6])
def test_a_change_of_next_hops_takes_effect(
    make_box: MakeBox, fetch: Fetch, kind: str, family: int
) -> None:
    box = make_box(hosts=3)
    box.set_next_hops([1, 2], kind)
    assert set(fetch(box, family, 24)) == {1, 2}
    box.set_next_hops([3], kind)
    assert set(fetch(box, family, 8)) == {3}
    box.set_next_hops([2, 3, 1], kind)
    if kind == "resilient":  # buckets in use move only when they have been idle for long
        assert set(fetch(box, family, 8)) <= {1, 2, 3}
    else:
        assert set(fetch(box, family, 48)) == {1, 2, 3}


def test_kinds_of_next_hops_follow_each_other(make_box: MakeBox, fetch: Fetch) -> None:
    box = make_box(hosts=3)
    for hosts, kind in (
        ([1, 2], "group"),
        ([2, 3], "plain"),
        ([3, 1], "resilient"),
        ([2], "plain"),
    ):
        box.set_next_hops(hosts, kind)
        for family in (4, 6):
            assert set(fetch(box, family, 8)) <= set(hosts)


def test_connections_live_while_nothing_changes(make_box: MakeBox) -> None:
    box = make_box(hosts=3, clients=2)
    with Crowd(box, connections=41, seed=1) as crowd:
        crowd.wait_ready()
        result = crowd.finish()
    assert (result.connections, result.broken, result.wrong_bytes) == (41, 0, 0)
    seen = box.observed()
    assert seen.syn_acks == 41
    assert (seen.resets, seen.misdelivered, seen.flows_full) == (0, 0, 0)


@pytest.mark.parametrize("ipv6", [False, True])
def test_removing_a_next_hop_breaks_connections_without_gossip(
    make_box: MakeBox, ipv6: bool
) -> None:
    box = make_box(hosts=4, ipv6=ipv6)
    with Crowd(box, connections=80, seed=1) as crowd:
        crowd.wait_ready()
        before = box.observed()
        assert before.resets == 0
        box.set_next_hops([1, 2, 3])
        result = crowd.finish()
    seen = box.observed() - before
    assert result.broken > 80 // 4, "the owner removed was one of four"
    assert result.broken_owner_died == 0
    assert seen.resets >= result.reasons["ConnectionResetError"]
    assert seen.misdelivered >= seen.resets // 2, "a reset comes from a host that is no owner"


def test_only_what_a_killed_host_owned_breaks(make_box: MakeBox) -> None:
    box = make_box(hosts=4)
    with Crowd(box, connections=60, seed=1) as crowd:
        crowd.wait_ready()
        members = processes_in(box.host_namespace(2))
        box.kill_host(2)
        crowd.host_died(2)
        result = crowd.finish()
    assert result.broken == 0
    assert 0 < result.broken_owner_died < 60
    assert [pid for pid in members if not cgroups.has_ended(pid)] == []
    assert box.live_hosts() == [1, 3, 4]
    assert box.observed().resets == 0, "a host without power says nothing"
    with pytest.raises(BoxError, match="host 2 is not alive"):
        box.kill_host(2)


def test_what_broke_before_its_owner_was_killed_stays_broken(make_box: MakeBox) -> None:
    box = make_box(hosts=3)
    with Crowd(box, connections=60, seed=1) as crowd:
        crowd.wait_ready()
        box.set_next_hops([2, 3, 1])
        while crowd.broken_so_far() < 60:  # the client reports four times a second
            crowd.wait_report()
        box.kill_host(2)
        crowd.host_died(2)
        result = crowd.finish()
    assert (result.broken, result.broken_owner_died) == (60, 0)


def test_a_full_packet_and_outer_headers_fit_between_hosts(make_box: MakeBox) -> None:
    box = make_box(hosts=2, proxy="none")
    for namespace, link in (
        (box.host_namespace(1), "eth0"),
        (box.router_namespace(), "h1"),
        (box.router_namespace(), "pop"),
    ):
        assert "mtu 1600" in box.run_in(namespace, ["ip", "link", "show", link])


def test_syn_cookies_are_set_per_host(make_box: MakeBox) -> None:
    box = make_box(hosts=2, proxy="none", tcp_syncookies={1: 2})
    show = ["cat", "/proc/sys/net/ipv4/tcp_syncookies"]
    assert box.run_in(box.host_namespace(1), show) == "2\n"
    box.set_tcp_syncookies(2, 0)
    assert box.run_in(box.host_namespace(2), show) == "0\n"


def test_hosts_find_each_other_by_the_kernels_own_neighbour_entries(make_box: MakeBox) -> None:
    box = make_box(hosts=2, proxy="none")
    entries = box.run_in(box.host_namespace(1), ["ip", "neigh", "show", "nud", "permanent"])
    assert "10.8.0.1 " in entries
    assert "10.8.0.12" not in entries


def test_the_baseline_of_the_demo_breaks_well_over_a_quarter() -> None:
    steps: list[str] = []
    result = _Phase(DemoOptions(connections=100, changes=2, seed=7), False, steps.append).run()
    assert result.clients.broken > 100 // 3
    assert result.observed.misdelivered > 0
    assert len(steps) == 2 + 3
