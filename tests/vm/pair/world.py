# SPDX-License-Identifier: BSD-2-Clause
"""A POP of two guests, each a host with a kernel of its own; router and client are namespaces.

client ── router ══ bridge ─┬─ tap ─ guest A (host 1)
                            └─ tap ─ guest B (host 2)
"""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pyxdp_gossip.popbox.agents import to_toml
from pyxdp_gossip.stats import ENDINGS
from tests.kernel.conftest import Namespace, connect
from tests.kernel.dataplane_fixture import own_namespaces
from tests.vm import image, packages
from tests.vm.machine import GuestError, Machine, tap_nic
from tests.vm.packages import ROOT, CannotRunError
from tests.vm.remote import DEVICE, LENGTH

PORT: Final = "/dev/ttyS1"
BOOT_S: Final = 240.0
ANSWER_S: Final = 300.0  # more than the guest itself waits for anything
PATIENCE_S: Final = 120.0
POLL_S: Final = 0.1
QUEUES: Final = 2
TAP_LENGTH: Final = 16384  # frames that wait for a slow guest
ROUTER, CLIENT, CLIENT_ROUTER = "10.8.0.1", "192.0.2.2", "192.0.2.1"
SEEN: Final = "rx_xdp_packets"  # of ethtool: frames that the program saw
VIP, VIP_PORT = "198.51.100.1", 80
KEY: Final = bytes(range(32)).hex()


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Waits until the condition holds."""
    limit = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < limit, f"waited {PATIENCE_S} s for {what}"
        time.sleep(POLL_S)


def deliver(connection: socket.socket, content: bytes) -> None:
    """The server at the other end got this, each byte in its place: it says the digest."""
    connection.sendall(LENGTH.pack(len(content)) + content)
    answer = connection.recv(hashlib.sha256().digest_size, socket.MSG_WAITALL)
    assert answer == hashlib.sha256(content).digest()


@dataclass
class Host:
    """One guest."""

    number: int
    machine: Machine

    @property
    def address(self) -> str:
        """In the underlay."""
        return f"10.8.0.{10 + self.number}"

    @property
    def mac(self) -> str:
        """Of its NIC."""
        return f"02:00:00:00:0b:{self.number:02x}"

    @property
    def tap(self) -> str:
        """The other end of its NIC."""
        return f"tap{self.number}"

    def ask(self, name: str, **arguments: Any) -> Any:
        """Calls a function of tests/vm/remote.py."""
        answer = self.machine.ask({"call": name, "arguments": arguments}, ANSWER_S)
        if answer["kind"] != "answer":
            raise AssertionError(f"host {self.number}, {name}: {answer.get('why', answer)}")
        return answer["value"]

    def run(self, words: str) -> str:
        """A command in the guest; its output."""
        return str(self.ask("run", words=words.split()))

    def set_up(self) -> None:
        """Interface, addresses, routes and the server; no agent yet."""
        self.ask("take_nic", mac=self.mac)
        for words in (
            f"sysctl -qw net.ipv6.conf.{DEVICE}.disable_ipv6=1",
            "ip link set lo up",
            f"ip link set {DEVICE} up",
            f"ip addr add {self.address}/24 dev {DEVICE}",
            f"ip addr add {VIP}/32 dev lo",
            f"ip route add default via {ROUTER}",
        ):
            self.run(words)
        self.ask("serve", address=VIP, port=VIP_PORT)

    def start(self, others: Sequence[Host]) -> None:
        """The agent, with its loops forced into zero-copy; floods are copied by the loop, for
        this driver drops what the XDP program sends."""
        tables = {
            "host": {"id": self.number, "interface": DEVICE},
            "gossip": {
                "members": [one.address for one in others], "port": 7946,
                "key_file": "/run/gossip.key", "preset": "loopback",
            },
            "dataplane": {"plane": "xsk", "mode": "zero-copy"},
            "table": {"sessions_v4": 4096, "sessions_v6": 4096},
            "control": {"socket": "/run/control.sock"},
            "service": [{"vip": VIP, "port": VIP_PORT, "protocol": "tcp"}],
        }  # fmt: skip
        self.ask("start_agent", config=to_toml(tables), key=KEY)

    def counters(self) -> dict[str, Any]:
        """All that the agent counts."""
        found: dict[str, Any] = self.ask("counters")
        return found


class Change:
    """What the counters of a host rose by, since it was made; `look` takes them again.

    Attributes:
        program: the data path's counters.
        driver: those of `ethtool -S`.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self._before = self._now()

    def _now(self) -> list[dict[str, int]]:
        """The driver's are taken twice: gossip goes on, and the program's lie between."""
        early = self.host.ask("ethtool_statistics")
        counted = self.host.counters()["dataplane"]
        return [early, counted, self.host.ask("ethtool_statistics")]

    def look(self) -> Change:
        """Takes the counters again."""
        now = self._now()
        _, self.program, self.driver = (
            {name: count - old.get(name, 0) for name, count in new.items()}
            for new, old in zip(now, self._before, strict=True)
        )
        self.seen_at_least = now[0][SEEN] - self._before[2][SEEN]
        self.seen_at_most = now[2][SEEN] - self._before[0][SEEN]
        return self

    def sent(self) -> int:
        """Frames that the program and its loop meant to send."""
        return sum(self.program[name] for name, action in ENDINGS.items() if action == "tx")

    def tunnelled(self) -> int:
        """Frames that came in a tunnel."""
        kinds = ("delivered_", "flood_unknown", "flood_syn", "misdirected_", "tunnel_")
        return sum(self.program[name] for name in ENDINGS if name.startswith(kinds))

    def check_that_each_frame_ended(self) -> None:
        """What the driver gave to the program, gossip included, met one end each."""
        ended = sum(self.program[name] for name in ENDINGS)
        assert self.seen_at_least <= ended <= self.seen_at_most

    def check_the_loops(self) -> None:
        """All that the program handed over was sent by the loops, as far as the driver knows."""
        assert self.driver["rx_xdp_redirects"] == self.program["handed_over"]
        sent = self.sent() + self.program["flood_copies"]
        assert self.driver["tx_xdp_tx"] == sent, (self.driver, self.program)


class Pair:
    """Both hosts, and what is around them."""

    def __init__(self, router: Namespace, client: Namespace, hosts: tuple[Host, Host]) -> None:
        self.router = router
        self.client = client
        self.hosts = hosts
        self.a, self.b = hosts

    def route(self, *hosts: Host) -> None:
        """These are the VIP's next hops from now on, in this order."""
        hops = " ".join(f"nexthop via {one.address} dev br0" for one in hosts)
        self.router.ip(f"route replace {VIP}/32 {hops}")

    def connect(self, mss: int = 0) -> socket.socket:
        """A connection of the client's to the VIP."""

        def make() -> socket.socket:
            made = socket.socket()
            made.settimeout(PATIENCE_S)
            if mss:
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, mss)
            made.connect((VIP, VIP_PORT))
            return made

        return self.client.run(make)

    @contextmanager
    def connections(self, count: int, mss: int = 0) -> Iterator[list[socket.socket]]:
        """Connections that B accepted, and of which A knows."""
        self._wait_for_tables(0)
        self.route(self.b)
        with ExitStack() as stack:
            made = [stack.enter_context(self.connect(mss)) for _ in range(count)]
            self._wait_for_tables(count)
            yield made

    def _wait_for_tables(self, sessions: int) -> None:
        """Until both hosts know of so many; those of earlier tests were closed."""

        def known() -> bool:
            return all(host.counters()["table"]["v4"] == sessions for host in self.hosts)

        wait_for(known, f"both hosts to know of {sessions} connections")

    def tap_drops(self, host: Host) -> int:
        """Frames for a guest that the machine dropped: they are on no counter of the guest's."""
        path = f"/sys/class/net/{host.tap}/statistics/tx_dropped"
        return int(self.router.exec(f"cat {path}"))


def _job() -> dict[str, Any]:
    return {
        "arguments": ["-m", "tests.vm.remote"],
        "folder": str(ROOT),
        "environment": {"XG_GUEST_PORT": PORT, "HOME": "/root"},
    }


def _network(router: Namespace, client: Namespace) -> None:
    """Everything but the taps."""
    connect(client, "eth0", router, "client")
    router.ip("link add br0 type bridge mcast_snooping 0")
    router.ip("link set br0 up")
    router.ip(f"addr add {ROUTER}/24 dev br0")
    router.ip(f"addr add {CLIENT_ROUTER}/24 dev client")
    client.ip(f"addr add {CLIENT}/24 dev eth0")
    client.ip(f"route add default via {CLIENT_ROUTER}")
    router.exec("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.fib_multipath_hash_policy=1")
    router.exec("sysctl -qw net.ipv4.conf.all.send_redirects=0")


def _boot(router: Namespace, number: int, stack: ExitStack) -> Host:
    host = Host(number, None)  # type: ignore[arg-type]
    router.ip(f"tuntap add dev {host.tap} mode tap multi_queue")
    router.ip(f"link set {host.tap} master br0 txqueuelen {TAP_LENGTH} up")
    parts = packages.parts()
    nics = tap_nic(host.tap, host.mac, QUEUES)
    images = image.build(parts)
    name = f"console-{number}"
    host.machine = stack.enter_context(Machine(parts, images, _job(), nics, router.name, name))
    return host


@contextmanager
def pair() -> Iterator[Pair]:
    """Two guests without agents; the VIP is routed to both."""
    if not Path("/dev/net/tun").exists():
        raise CannotRunError("two guests need /dev/net/tun, and this machine has none")
    with own_namespaces() as make, ExitStack() as stack:
        router, client = make("r"), make("c")
        _network(router, client)
        hosts = (_boot(router, 1, stack), _boot(router, 2, stack))
        for host in hosts:
            messages = host.machine.messages(BOOT_S)
            while (message := next(messages))["kind"] != "ready":
                if message["kind"] in ("broken", "ended"):
                    raise GuestError(f"{message}: {host.machine.last_lines()}")
            host.set_up()
        made = Pair(router, client, hosts)
        made.route(*hosts)
        yield made
