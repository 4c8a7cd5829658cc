# SPDX-License-Identifier: BSD-2-Clause
"""`pyxdp-gossip doctor` on a host that is well, and on hosts that each lack one thing."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyxdp_gossip.xsk import XskProgram
from tests.kernel.agent_host import DEVICE, ROOT, AgentHost, agent_host
from tests.kernel.conftest import Namespace

MakeNamespace = Callable[[str], Namespace]
VIP = "198.51.100.1"


@pytest.fixture
def host(netns: MakeNamespace, tmp_path: Path) -> Iterator[AgentHost]:
    """A host that has all that an agent needs, but no proxy and an MTU of 1500."""
    with agent_host(netns("h"), tmp_path) as made:
        made.connect(netns("far"))
        made.namespace.ip(f"addr add {VIP}/32 dev lo")
        yield made


def doctor(
    host: AgentHost, *words: str, through: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    prefix = ["nsenter", f"--net=/run/netns/{host.namespace.name}", *through]
    return subprocess.run(
        [*prefix, sys.executable, "-m", "pyxdp_gossip", "doctor", "--config", str(host.config),
         *words],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def lines(host: AgentHost, check: str, state: str, **how: Any) -> list[str]:
    """The lines of one check that have this state; no status but 0 and 1, and no other output."""
    done = doctor(host, **how)
    assert (done.returncode in (0, 1), done.stderr) == (True, ""), done.stderr
    assert ("problem " in done.stdout) == (done.returncode == 1), done.stdout
    return [one for one in done.stdout.splitlines() if one.startswith(f"{state:<8} {check}: ")]


def test_a_host_that_is_well_has_no_problem(host: AgentHost, tmp_path: Path) -> None:
    written = tmp_path / "doctor.json"
    done = doctor(host, "--json", str(written))
    assert (done.returncode, done.stderr) == (0, "")
    assert "problem " not in done.stdout
    assert done.stdout.splitlines()[-1].startswith("0 problems, ")
    said = json.loads(written.read_text())
    assert said["status"] == "warning"
    assert said["features"]["native-xdp"]["state"] == "yes"
    assert {"check", "state", "text", "remedy"} == set(said["findings"][0])
    assert host.attached() == []


def remove_vip(host: AgentHost) -> None:
    host.namespace.ip(f"addr del {VIP}/32 dev lo")


def set_down(host: AgentHost) -> None:
    host.namespace.ip(f"link set {DEVICE} down")


def set_multicast_off(host: AgentHost) -> None:
    host.namespace.ip(f"link set {DEVICE} multicast off")


def set_strict(host: AgentHost) -> None:
    host.namespace.exec(f"sysctl -qw net.ipv4.conf.{DEVICE}.rp_filter=1")


def set_cookies_off(host: AgentHost) -> None:
    host.namespace.exec("sysctl -qw net.ipv4.tcp_syncookies=0")


def open_key(host: AgentHost) -> None:
    (host.folder / "gossip.key").chmod(0o644)


def spoil_key(host: AgentHost) -> None:
    (host.folder / "gossip.key").write_text("1 nonsense\n")


def remove_key(host: AgentHost) -> None:
    (host.folder / "gossip.key").unlink()


def nothing(host: AgentHost) -> None:
    """A host without a proxy, with an MTU of 1500, and a veth with its offloads on."""


def configured(table: str, **keys: str | int) -> Callable[[AgentHost], None]:
    return lambda host: host.configure({table: keys})


@pytest.mark.parametrize(
    ("spoil", "state", "check", "remedy"),
    [
        (remove_vip, "problem", "vip", f"ip addr add {VIP}/32 dev lo"),
        (set_down, "problem", "interface", f"ip link set dev {DEVICE} up"),
        (configured("host", interface="nope0"), "problem", "interface",
         f"there is no nope0; name one that is: lo, {DEVICE}"),
        (configured("host", address="10.9.9.9"), "problem", "address",
         f"ip addr add 10.9.9.9/LENGTH dev {DEVICE}"),
        (set_multicast_off, "problem", "group", f"ip link set dev {DEVICE} multicast on"),
        (set_strict, "warning", "rp_filter", f"sysctl -w net.ipv4.conf.{DEVICE}.rp_filter=2"),
        (set_cookies_off, "warning", "tcp_syncookies", "sysctl -w net.ipv4.tcp_syncookies=1"),
        (open_key, "warning", "key file", "chmod 600 it"),
        (spoil_key, "problem", "key file", "pyxdp-gossip keygen"),
        (remove_key, "problem", "key file", "pyxdp-gossip keygen"),
        (configured("dataplane", cgroup="/tmp"), "problem", "cgroup", "set [dataplane] cgroup"),
        (configured("dataplane", pins="/tmp/xg-pins"), "problem", "BPF file system",
         "set [dataplane] pins to a folder below /sys/fs/bpf"),
        (configured("dataplane", mode="zero-copy"), "problem", "af-xdp-zero-copy",
         'set [dataplane] mode = "auto"'),
        (nothing, "warning", "mtu",
         'set its MTU to 1544 or more, or [dataplane] mss = "auto" (1416 over IPv4, 1396 over'),
        (configured("dataplane", mss=1460), "warning", "mtu", "1544"),
        (nothing, "warning", "listener", "start the proxy"),
        (nothing, "warning", "offloads", f"ethtool -K {DEVICE} tx off"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named_with_its_remedy(
    host: AgentHost, spoil: Callable[[AgentHost], None], state: str, check: str, remedy: str
) -> None:
    spoil(host)
    (line,) = lines(host, check, state)
    assert remedy in line


def test_what_was_set_right_is_no_longer_named(host: AgentHost) -> None:
    host.configure({"dataplane": {"mss": "auto"}})
    host.namespace.exec(f"ethtool -K {DEVICE} tx off")
    for check in ("mtu", "offloads"):
        assert lines(host, check, "warning") == []
        assert len(lines(host, check, "ok")) == 1


def test_the_path_to_a_member_counts_as_well(host: AgentHost) -> None:
    host.configure({"gossip": {"group": None, "members": ["10.8.0.12", "10.99.0.1"], "port": 7946}})
    host.namespace.ip(f"link set {DEVICE} mtu 1600")
    host.namespace.ip(f"route add 10.8.0.12 dev {DEVICE} mtu 1400")
    path, missing = lines(host, "mtu", "warning")
    assert "the path to 10.8.0.12 takes 1400, 1356" in path
    assert "[dataplane] mss = 1296: docs" in path
    assert "no route to 10.99.0.1" in missing


@pytest.mark.parametrize("address", ["0.0.0.0", VIP])
def test_a_listener_is_seen(host: AgentHost, address: str) -> None:
    with host.namespace.run(socket.socket) as listener:
        listener.bind((address, 80))
        listener.listen()
        assert len(lines(host, "listener", "ok")) == 1


def test_a_taken_tunnel_port_is_seen(host: AgentHost) -> None:
    with host.namespace.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 6080))
        assert "set another [dataplane] tunnel_port" in lines(host, "tunnel port", "warning")[0]


def test_somebody_elses_program_is_seen_by_name_and_id(host: AgentHost) -> None:
    with host.namespace.run(XskProgram, DEVICE):
        (line,) = lines(host, "XDP program", "problem")
        assert f"xg_to_socket (id {host.xdp_program()}, native)" in line
        assert f"ip link set dev {DEVICE} xdp off" in line


def test_the_hosts_own_agent_is_no_problem_alive_or_killed(host: AgentHost) -> None:
    agent = host.start_synced()
    assert "this host's own" in lines(host, "XDP program", "ok")[0]
    assert "runs with the pins" in lines(host, "agent", "ok")[0]
    agent.kill()
    agent.wait()
    assert "this host's own" in lines(host, "XDP program", "ok")[0]
    assert "start the agent" in lines(host, "agent", "warning")[0]


def test_missing_capabilities_are_named_and_nothing_breaks(host: AgentHost) -> None:
    drop = ("setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-all")
    assert "CAP_BPF missing; run as root" in lines(host, "privileges", "problem", through=drop)[0]
    drop = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    (line,) = lines(host, "privileges", "problem", through=drop)
    assert "CAP_NET_ADMIN, CAP_NET_RAW, CAP_PERFMON, CAP_BPF missing" in line


@pytest.mark.parametrize("text", [None, "[host]\nid = 1\n", "no TOML", "gossip = 3\n"])
def test_a_configuration_that_cannot_be_read_is_one_line_and_status_2(
    host: AgentHost, text: str | None
) -> None:
    if text is None:
        host.config.unlink()
    else:
        host.config.write_text(text)
    done = doctor(host)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "Traceback" not in done.stderr


def test_a_file_that_cannot_be_written_is_one_line_and_status_2(host: AgentHost) -> None:
    done = doctor(host, "--json", "/nowhere/doctor.json")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
