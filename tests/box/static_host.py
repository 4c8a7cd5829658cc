# SPDX-License-Identifier: BSD-2-Clause
"""Attaches the programs of one host with an empty table, and exits: no agent and no gossip.

Run as `python static_host.py JSON` in the host's network namespace; what is attached stays, by its
pins. The programs know the services, the flood group and the other hosts' cookies, nothing else.
"""

import json
import os
import sys
from ipaddress import IPv4Address
from pathlib import Path

from pyxdp_gossip.dataplane import Dataplane
from pyxdp_gossip.dataplane_settings import DataplaneSettings
from pyxdp_gossip.popbox import Box, leftovers, names
from pyxdp_gossip.routing import Routing
from pyxdp_gossip.session import Service, parse_endpoint

TUNNEL_PORT = 6080
FLOOD_GROUP = "239.192.7.2"
SECRET = bytes(range(32))
SESSIONS = 1024
FLOOD_RATE_PPS, FLOOD_NEW_RATE_PPS = 50_000, 10_000  # the defaults of the configuration
SERVICES = (f"{names.VIP4}:{names.VIP_PORT}", f"[{names.VIP6}]:{names.VIP_PORT}")


def services() -> dict[Service, int]:
    """The box's, in the slots that it has with agents; behind them the same for UDP."""
    endpoints = [parse_endpoint(text) for text in SERVICES]
    tcp = [Service(*endpoint, "tcp") for endpoint in endpoints]
    udp = [Service(*endpoint, "udp") for endpoint in endpoints]
    return {service: slot for slot, service in enumerate(tcp + udp)}


def attach_static_host(box: Box, host: int) -> None:
    """Attaches the programs on a host of the box, by a process that has ended on return."""
    plan = {
        "host": host,
        "hosts": list(box.host_ids),
        "pins": str(leftovers.pin_folder(os.getpid()) / f"host-{host}"),
        "cgroup": str(box.host_cgroup(host)),
    }
    argv = [sys.executable, str(Path(__file__).resolve()), json.dumps(plan)]
    box.run_in(box.host_namespace(host), argv)


def main() -> None:
    """Reads the plan from the first argument, attaches, and leaves it attached."""
    plan = json.loads(sys.argv[1])
    address = IPv4Address(names.host_address(plan["host"]).ipv4)
    settings = DataplaneSettings(
        host=plan["host"],
        interface="eth0",
        address=address,
        flood_group=IPv4Address(FLOOD_GROUP),
        tunnel_port=TUNNEL_PORT,
        services=services(),
        sessions_v4=SESSIONS,
        sessions_v6=SESSIONS,
        mode="native",
        pins=Path(plan["pins"]),
        cgroup=Path(plan["cgroup"]),
        flood_rate_pps=FLOOD_RATE_PPS,
        flood_new_rate_pps=FLOOD_NEW_RATE_PPS,
    )
    dataplane = Dataplane(settings)
    dataplane.open()
    routing = Routing(dataplane, "eth0", address, [SECRET])
    routing.refresh()
    for host in plan["hosts"]:
        dataplane.owners.activate(host)
        if host != plan["host"]:
            routing.add(host, IPv4Address(names.host_address(host).ipv4), TUNNEL_PORT)
    dataplane.attach_packets()
    dataplane.close()


if __name__ == "__main__":
    main()
