# SPDX-License-Identifier: BSD-2-Clause
"""Names and addresses in the box: pure functions of the process id and of a number.

Everything a box makes carries the process id of its maker, so that a leftover of a crash is
recognised. Addresses are fixed: namespaces keep boxes apart, and fixed MACs make static
neighbour entries possible.
"""

import re
from dataclasses import dataclass

HOSTS_MAX = 64
"""The bound is ours, not the addressing's: more hosts than this say nothing new on one machine."""
CLIENTS_MAX = 8

VIP4 = "198.51.100.1"
VIP6 = "2001:db8:100::1"
VIP_PORT = 80
BACKEND_PORT = 8080
"""Where nginx listens on loopback when HAProxy has the VIP."""

BRIDGE = "pop"
POP_MTU = 1600
"""A full packet of 1500 bytes and the outer headers must fit."""
CLIENT_MTU = 1500

ROUTER4 = "10.8.0.1"
ROUTER6 = "fd08::1"
ROUTER_MAC = "02:00:0a:08:00:01"

CLIENT_GATEWAY4 = "203.0.113.1"
CLIENT_GATEWAY6 = "2001:db8:200::1"

NETNS_PATTERN = re.compile(r"^xg(\d+)-(?:rt|h\d+|c\d+)$")
CGROUP_PATTERN = re.compile(r"^xg(\d+)$")
BOX_PATTERN = re.compile(r"^box-(\d+)$")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a host or a client is: its MAC and one address of each family."""

    mac: str
    ipv4: str
    ipv6: str


def router_namespace(pid: int) -> str:
    return f"xg{pid}-rt"


def host_namespace(pid: int, host: int) -> str:
    return f"xg{pid}-h{host}"


def client_namespace(pid: int, client: int) -> str:
    return f"xg{pid}-c{client}"


def host_port(host: int) -> str:
    """The bridge-side port of a host, in the router's namespace."""
    return f"h{host}"


def client_port(client: int) -> str:
    """The router's side of the link to a client."""
    return f"c{client}"


def host_address(host: int) -> Address:
    """Underlay addresses of a host; host ids begin at 1."""
    number = 10 + host
    return Address(f"02:00:0a:08:00:{number:02x}", f"10.8.0.{number}", f"fd08::{number}")


def client_address(client: int) -> Address:
    """Addresses of a client namespace; clients begin at 1."""
    number = 10 + client
    return Address(f"02:00:cb:00:71:{number:02x}", f"203.0.113.{number}", f"2001:db8:200::{number}")


def client_gateway_mac(client: int) -> str:
    return f"02:00:cb:00:72:{10 + client:02x}"
