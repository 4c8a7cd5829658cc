# SPDX-License-Identifier: BSD-2-Clause
"""What an agent says that cannot start: one line, status 2, and nothing is left attached."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.agent_host import DEVICE, AgentHost, agent_host, wait_for
from tests.kernel.conftest import Namespace, command

MakeNamespace = Callable[[str], Namespace]

# Reads any file, and nothing else: the interpreter may lie below /root.
NOBODY = (
    "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
    "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search",
)  # fmt: skip

# A kernel whose bpf() fails with the errno given: seccomp answers in its place.
WITHOUT_BPF = """
import ctypes, os, platform, struct, sys
NUMBER = {"x86_64": 321, "aarch64": 280}[platform.machine()]
LOAD, EQUAL, RETURN, ERRNO, ALLOW = 0x20, 0x15, 0x06, 0x00050000, 0x7FFF0000
rules = [(LOAD, 0, 0, 0), (EQUAL, 0, 1, NUMBER), (RETURN, 0, 0, ERRNO | int(sys.argv[1])),
         (RETURN, 0, 0, ALLOW)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
program = ctypes.create_string_buffer(struct.pack("@HP", len(rules), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, program, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
os.execvp(sys.argv[2], sys.argv[2:])
"""

PASS_ALL = """
#include <linux/bpf.h>
__attribute__((section("xdp"), used)) int pass_all(struct xdp_md *context) { return XDP_PASS; }
char _license[] __attribute__((section("license"), used)) = "GPL";
"""


@pytest.fixture
def host(netns: MakeNamespace, tmp_path: Path) -> Iterator[AgentHost]:
    """A host that an agent could run on."""
    with agent_host(netns("h"), tmp_path) as made:
        made.connect(netns("far"))
        yield made


UNICAST = {"group": None, "port": 7946}

WRONG_SETTINGS: list[tuple[str, dict[str, Any], str, str]] = [
    ("gossip", {"key_file": "none.key"}, "none.key", "`pyxdp-gossip keygen`"),
    ("gossip", {"key_file": None}, "key_file is missing", "`insecure = true`"),
    ("gossip", {"grop": 1}, "unknown key `grop`", "`group`"),
    ("gossip", {"group": "10.8.0.1:7946"}, "group", "a multicast address"),
    ("gossip", {"group": "[ff05::7]:7946"}, "no global IPv6 address", "set host.address"),
    ("gossip", {"members": ["10.8.0.12"]}, "either `group`", "or `members`"),
    ("gossip", UNICAST | {"members": ["10.8.0.11"]}, "members is 10.8.0.11", "not this host's own"),
    ("gossip", UNICAST | {"members": ["fd08::12"]}, "no global IPv6 address", "host.address"),
    ("gossip", UNICAST | {"members": []}, "group is missing", "or `members`"),
    ("service", {"vip": "198.51.100"}, "vip is '198.51.100'", "an IPv4 or IPv6 address"),
    ("service", {"vip": "224.0.0.1"}, "vip is '224.0.0.1'", "a unicast address"),
    ("service", {"port": 0}, "port is 0", "1..65535"),
    ("host", {"id": -1}, "id is -1", "0..65000"),
    ("host", {"id": None}, "id is missing", "0..65000"),
    ("host", {"interface": "gone0"}, "'gone0'", f"there are: lo, {DEVICE}"),
    ("host", {"interface": "gone0", "address": "10.8.0.11"}, "'gone0'", "there are: lo"),
    ("host", {"interface": "lo"}, "no global IPv4 address", "host.address"),
    ("host", {"address": "fd08::11"}, "[gossip] group is 239.", "one of fd08::11's family"),
    ("host", {"address": "10.9.9.9"}, "10.9.9.9", "check [host] address"),
    ("dataplane", {"pins": "/run/xg-no-bpffs"}, "not on a BPF file system", "mount -t bpf"),
    ("dataplane", {"cgroup": "/sys/fs/cgroup/none"}, "cgroup", "set [dataplane] cgroup"),
    ("dataplane", {"cgroup": "/run"}, "not a cgroup v2 folder", "set [dataplane] cgroup"),
    ("table", {"sessions_v4": 0}, "sessions_v4 is 0", "a whole number of 1.."),
]


@pytest.mark.parametrize(("table", "keys", "wrong", "remedy"), WRONG_SETTINGS)
def test_a_wrong_setting_is_named_with_what_is_expected(
    host: AgentHost, table: str, keys: dict[str, Any], wrong: str, remedy: str
) -> None:
    host.configure({table: keys})
    line = host.refusal()
    assert wrong in line
    assert remedy in line
    assert host.attached() == []


@pytest.mark.parametrize("text", ["", "1\n", "1 c2hvcnQ=\n", "0 " + "A" * 43 + "=\n", "\xff\n"])
def test_a_malformed_key_file_is_named_and_no_secret_is_shown(host: AgentHost, text: str) -> None:
    (host.folder / "gossip.key").write_text(text)
    line = host.refusal()
    assert "gossip.key" in line
    assert "c2hvcnQ" not in line
    assert "A" * 43 not in line
    assert host.attached() == []


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot be read"), ("[host\n", "is no TOML"), ("", "[host] is missing")],
)
def test_a_configuration_that_cannot_be_read_is_named(
    host: AgentHost, content: str | None, said: str
) -> None:
    host.config.unlink()
    if content is not None:
        host.config.write_text(content)
    line = host.refusal()
    assert str(host.config) in line
    assert said in line
    assert host.attached() == []


@pytest.mark.parametrize(
    "through",
    [
        NOBODY,
        ("setpriv", "--bounding-set=-all"),
        ("setpriv", "--bounding-set=-bpf,-sys_admin"),
        ("setpriv", "--bounding-set=-net_admin"),
    ],
    ids=["nobody", "no capability", "no CAP_BPF", "no CAP_NET_ADMIN"],
)
def test_without_privileges_the_line_says_run_as_root(
    host: AgentHost, through: tuple[str, ...]
) -> None:
    line = host.refusal(through=through)
    assert line.endswith(("run as root", "run as root)"))
    assert host.attached() == []


def test_a_kernel_without_bpf_is_named(host: AgentHost) -> None:
    through = (sys.executable, "-c", WITHOUT_BPF, str(errno.ENOSYS))
    line = host.refusal(through=through)
    assert "built without BPF (CONFIG_BPF_SYSCALL)" in line
    assert host.attached() == []


def test_a_driver_without_native_xdp_is_named_and_auto_takes_the_generic_one(
    host: AgentHost,
) -> None:
    host.namespace.ip("link add br0 type bridge")
    host.namespace.ip("link set br0 up")
    host.namespace.ip("addr add 10.9.0.1/24 dev br0")
    host.configure({"host": {"interface": "br0"}, "dataplane": {"mode": "native"}})
    line = host.refusal()
    assert 'no native XDP: set [dataplane] mode = "skb"' in line
    assert host.attached() == []
    host.configure({"host": {"interface": "br0"}})
    agent = host.start_synced()
    assert host.counters(agent)["attached"] == "skb"
    host.stop(agent)
    assert host.attached() == []


def test_a_forced_mode_that_the_driver_lacks_is_refused_and_one_that_it_has_is_reported(
    host: AgentHost,
) -> None:
    host.configure({"dataplane": {"mode": "zero-copy"}})
    line = host.refusal()
    assert "the driver has no zero-copy here" in line
    assert 'use mode "copy" or "auto"' in line
    assert host.attached() == []
    for mode in ("copy", "skb"):
        host.configure({"dataplane": {"mode": mode}})
        agent = host.start_synced()
        assert host.counters(agent)["mode"] == mode
        host.stop(agent)
    assert host.attached() == []


def test_the_loopback_with_its_large_mtu_is_no_traceback(host: AgentHost) -> None:
    host.configure(
        {"host": {"interface": "lo", "address": "127.0.0.1"}, "dataplane": {"mode": "native"}}
    )
    assert "no native XDP" in host.refusal()
    assert host.attached() == []


@pytest.mark.parametrize("mode", ["xdp", "xdpgeneric"])
def test_another_xdp_program_is_left_alone_and_named(
    host: AgentHost, mode: str, tmp_path: Path
) -> None:
    source, target = tmp_path / "pass.c", tmp_path / "pass.o"
    source.write_text(PASS_ALL)
    headers = f"/usr/include/{os.uname().machine}-linux-gnu"
    clang = ("clang", "-target", "bpf", "-O2", "-g", "-idirafter", headers)
    command(*clang, "-c", str(source), "-o", str(target))
    host.namespace.ip(f"link set dev {DEVICE} {mode} obj {target} sec xdp")
    before = host.xdp_program()
    line = host.refusal()
    assert "another XDP program is attached" in line
    assert "ip link set dev IF xdp off" in line
    assert "there now: pass_all" in line
    assert before is not None
    assert host.xdp_program() == before
    assert host.attached() == [f"XDP program on {DEVICE}"]


def test_of_two_hosts_with_one_id_the_younger_stops_and_the_elder_stays(
    host: AgentHost, netns: MakeNamespace, tmp_path: Path
) -> None:
    with agent_host(netns("twin"), tmp_path, 2) as twin:
        host.namespace.ip(f"link del {DEVICE}")
        host.connect(twin.namespace)
        twin.namespace.ip(f"addr add {twin.address}/24 dev {DEVICE}")
        twin.configure({"host": {"id": 1}})
        elder = host.start_synced()
        line = twin.refusal()
        assert f"host id 1 is taken by the host at {host.address}" in line
        assert "its own [host] id" in line
        assert twin.attached() == []
        assert elder.poll() is None
        assert host.xdp_program() is not None
        host.stop(elder)


def test_a_second_agent_with_the_same_address_is_refused_and_the_first_goes_on(
    host: AgentHost, tmp_path: Path
) -> None:
    first = host.start_synced()
    program = host.xdp_program()
    host.ready.rename(host.folder / "first-ready")
    assert "stop it" in host.refusal()
    assert first.poll() is None
    assert host.xdp_program() == program
    host.stop(first)
    assert host.attached() == []


def test_a_ready_file_in_no_folder_is_refused_before_anything_is_attached(
    host: AgentHost,
) -> None:
    host.ready = host.folder / "none" / "ready"
    assert "no such folder; make it first" in host.refusal()
    assert host.attached() == []


def test_an_interface_that_is_down_or_without_its_address_is_waited_for(host: AgentHost) -> None:
    agent = host.start_synced()
    sent = host.counters(agent)["socket"]["send_failed"]
    host.namespace.ip(f"addr del {host.address}/24 dev {DEVICE}")
    host.namespace.ip(f"link set {DEVICE} down")
    wait_for(lambda: host.counters(agent)["socket"]["send_failed"] > sent, "refused datagrams")
    host.namespace.ip(f"link set {DEVICE} up")
    host.namespace.ip(f"addr add {host.address}/24 dev {DEVICE}")
    failed = host.counters(agent)["socket"]["sent"]
    wait_for(lambda: host.counters(agent)["socket"]["sent"] > failed, "datagrams that leave")
    host.stop(agent)
    assert host.attached() == []


def test_the_demo_without_root_is_one_line() -> None:
    done = subprocess.run(
        [*NOBODY, sys.executable, "-m", "pyxdp_gossip", "demo"],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 2
    assert "need root" in done.stderr
    assert len(done.stderr.splitlines()) == 1
