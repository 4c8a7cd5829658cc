# SPDX-License-Identifier: BSD-2-Clause
"""Writes the scripts that build the links and addresses of a box, one per namespace (pure)."""

from collections.abc import Iterable, Sequence

from pyxdp_gossip.popbox import names

OFFLOADS = "tx off tso off gso off gro off"
"""A veth hands over checksums still to be computed and segments still to be cut; a packet that
is encapsulated on its way would carry them wrong."""


def batch(lines: Iterable[str]) -> str:
    """One `ip` process for all lines, as shell text."""
    return "ip -batch - <<'END'\n" + "".join(f"{line}\n" for line in lines) + "END\n"


def set_sysctls(values: Iterable[tuple[str, int]]) -> str:
    """Shell text; /proc/sys/net shows the network namespace of the process that opens it."""
    return "".join(f"echo {value} > /proc/sys/net/{key}\n" for key, value in values)


def every_interface(family: str, key: str, value: int) -> list[tuple[str, int]]:
    return [(f"{family}/conf/{scope}/{key}", value) for scope in ("all", "default")]


def common_sysctls() -> list[tuple[str, int]]:
    """Replies leave another way than requests come, and no address waits for its check."""
    return [
        *every_interface("ipv4", "rp_filter", 0),
        *every_interface("ipv6", "accept_dad", 0),
        *every_interface("ipv6", "accept_ra", 0),
        ("ipv6/conf/default/dad_transmits", 0),
    ]


def router_sysctls() -> list[tuple[str, int]]:
    """ECMP by the five-tuple: a client's connections spread over the hosts."""
    return [
        *common_sysctls(),
        ("ipv4/ip_forward", 1),
        ("ipv6/conf/all/forwarding", 1),
        *every_interface("ipv4", "send_redirects", 0),
        ("ipv4/fib_multipath_hash_policy", 1),
        ("ipv6/fib_multipath_hash_policy", 1),
    ]


def _host_links(pid: int, host: int, mtu: int) -> list[str]:
    port, address = names.host_port(host), names.host_address(host)
    peer = f"name eth0 mtu {mtu} address {address.mac}"
    return [
        f"link add name {port} mtu {mtu} type veth "
        f"peer {peer} netns {names.host_namespace(pid, host)}",
        f"link set {port} master {names.BRIDGE} up",
        f"neigh add {address.ipv4} lladdr {address.mac} dev {names.BRIDGE} nud permanent",
        f"neigh add {address.ipv6} lladdr {address.mac} dev {names.BRIDGE} nud permanent",
    ]


def _client_links(pid: int, client: int) -> list[str]:
    port, address = names.client_port(client), names.client_address(client)
    peer = f"name eth0 mtu {names.CLIENT_MTU} address {address.mac}"
    return [
        f"link add name {port} mtu {names.CLIENT_MTU} address {names.client_gateway_mac(client)} "
        f"type veth peer {peer} netns {names.client_namespace(pid, client)}",
        f"link set {port} up",
        f"addr add {names.CLIENT_GATEWAY4}/32 dev {port}",
        f"addr add {names.CLIENT_GATEWAY6}/128 dev {port} nodad",
        f"route add {address.ipv4}/32 dev {port}",
        f"route add {address.ipv6}/128 dev {port}",
        f"neigh add {address.ipv4} lladdr {address.mac} dev {port} nud permanent",
        f"neigh add {address.ipv6} lladdr {address.mac} dev {port} nud permanent",
    ]


def router_script(
    pid: int, hosts: int, clients: int, multicast: bool = True, mtu: int = names.POP_MTU
) -> str:
    """The bridge, all links, and static entries for what is fixed.

    A static forwarding entry per host stays when the link of a dead host is down: without it the
    bridge would flood the dead host's packets to all others. Without `multicast`, no host gets
    another one's: the router's own go through, and so do broadcasts.
    """
    bridge = names.BRIDGE
    lines = [
        "link set lo up",
        f"link add name {bridge} mtu {mtu} address {names.ROUTER_MAC} type bridge mcast_snooping 0",
        f"link set {bridge} up",
        f"addr add {names.ROUTER4}/24 dev {bridge}",
        f"addr add {names.ROUTER6}/64 dev {bridge} nodad",
    ]
    for host in range(1, hosts + 1):
        lines += _host_links(pid, host, mtu)
    for client in range(1, clients + 1):
        lines += _client_links(pid, client)
    ports = [names.host_port(host) for host in range(1, hosts + 1)]
    ports += [names.client_port(client) for client in range(1, clients + 1)]
    forwarding = [
        f"bridge fdb replace {names.host_address(host).mac} dev {names.host_port(host)} "
        "master static\n"
        for host in range(1, hosts + 1)
    ]
    offloads = [f"ethtool -K {port} {OFFLOADS}\n" for port in ports]
    if not multicast:
        forwarding += [
            f"bridge link set dev {names.host_port(host)} mcast_flood off\n"
            for host in range(1, hosts + 1)
        ]
    return "".join([set_sysctls(router_sysctls()), batch(lines), *forwarding, *offloads])


def host_script(host: int, tcp_syncookies: int | None) -> str:
    """Addresses, the VIPs on loopback and the way back; neighbours are left to the kernel.

    Only the router's entry is static: the product follows the entries of the other hosts.
    """
    address = names.host_address(host)
    sysctls = [
        *common_sysctls(),
        ("ipv6/conf/eth0/accept_dad", 0),
        ("ipv6/conf/eth0/accept_ra", 0),
        ("ipv4/conf/eth0/rp_filter", 0),
        ("ipv4/conf/all/arp_ignore", 1),
        ("ipv4/conf/all/arp_announce", 2),
    ]
    if tcp_syncookies is not None:
        sysctls.append(("ipv4/tcp_syncookies", tcp_syncookies))
    lines = [
        "link set lo up",
        f"addr add {names.VIP4}/32 dev lo",
        f"addr add {names.VIP6}/128 dev lo nodad",
        "link set eth0 up",
        f"addr add {address.ipv4}/24 dev eth0",
        f"addr add {address.ipv6}/64 dev eth0 nodad",
        f"neigh add {names.ROUTER4} lladdr {names.ROUTER_MAC} dev eth0 nud permanent",
        f"neigh add {names.ROUTER6} lladdr {names.ROUTER_MAC} dev eth0 nud permanent",
        f"route add default via {names.ROUTER4}",
        f"route add ::/0 via {names.ROUTER6} dev eth0",
    ]
    return set_sysctls(sysctls) + batch(lines)


def client_script(client: int) -> str:
    address, gateway_mac = names.client_address(client), names.client_gateway_mac(client)
    gateways = (names.CLIENT_GATEWAY4, names.CLIENT_GATEWAY6)
    sysctls = [
        *common_sysctls(),
        ("ipv6/conf/eth0/accept_dad", 0),
        ("ipv4/conf/eth0/rp_filter", 0),
    ]
    lines = [
        "link set lo up",
        "link set eth0 up",
        f"addr add {address.ipv4}/32 dev eth0",
        f"addr add {address.ipv6}/128 dev eth0 nodad",
        *(f"neigh add {gw} lladdr {gateway_mac} dev eth0 nud permanent" for gw in gateways),
        *(f"route add {gateway} dev eth0" for gateway in gateways),
        f"route add default via {names.CLIENT_GATEWAY4} dev eth0 src {address.ipv4}",
        f"route add ::/0 via {names.CLIENT_GATEWAY6} dev eth0 src {address.ipv6}",
    ]
    return set_sysctls(sysctls) + batch(lines) + f"ethtool -K eth0 {OFFLOADS}\n"


def namespaces(pid: int, hosts: int, clients: int) -> Sequence[str]:
    """All namespaces of a box, the router's first."""
    return [
        names.router_namespace(pid),
        *(names.host_namespace(pid, host) for host in range(1, hosts + 1)),
        *(names.client_namespace(pid, client) for client in range(1, clients + 1)),
    ]
