# SPDX-License-Identifier: BSD-2-Clause
"""What tshark's own dissectors read of tunnelled packets in each format."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.golden_formats import FLAVOURS, Flavour, flavoured_world, format_rows
from tests.golden_world import CLIENTS, OWN_MAC, TUNNEL_PORT, VIPS
from tests.kernel.test_tshark import GOOD, NOT_THERE, write_capture
from tests.model import parse
from tests.unit.test_golden_formats import name_of

ILLEGAL = "4"  # tshark's word for RFC 6935
PROTOCOLS = {"geneve": "geneve", "vxlan": "vxlan"}  # by port; it has no dissector for GUE


def dissect(path: Path, flavour: Flavour, names: list[str]) -> list[dict[str, list[str]]]:
    """All occurrences of each field in every frame, outermost first."""
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-E", "separator=|"]
    for option in ("ip.check_checksum", "udp.check_checksum", "tcp.check_checksum"):
        command += ["-o", f"{option}:TRUE"]
    if flavour.name in PROTOCOLS:
        command += ["-d", f"udp.port=={TUNNEL_PORT},{PROTOCOLS[flavour.name]}"]
    for name in names:
        command += ["-e", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    return [
        {
            name: [part for part in value.split(",") if part]
            for name, value in zip(names, line.split("|"), strict=True)
        }
        for line in lines
    ]


@pytest.mark.parametrize("flavour", FLAVOURS, ids=name_of)
def test_tshark_reads_both_packets_in_each_format(tmp_path: Path, flavour: Flavour) -> None:
    rows = [row for row in format_rows(flavour) if row.ending == "stray_forwarded"]
    rows = [row for row in rows if "fragment" not in row.description and "OTHER" in row.description]
    assert len(rows) > 10
    capture = tmp_path / "sent.pcap"
    write_capture(capture, [row.output for row in rows])
    outer, world = "ip" if flavour.version == 4 else "ipv6", flavoured_world(flavour)
    names = [
        "frame.protocols", "eth.src", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst",
        "ip.checksum.status", "udp.checksum.status", "vxlan.vni", "geneve.vni", "tcp.dstport",
        "_ws.malformed",
    ]  # fmt: skip
    for row, read in zip(rows, dissect(capture, flavour, names), strict=True):
        family = parse(row.frame).family
        inner = "ip" if family == 4 else "ipv6"
        assert read["_ws.malformed"] == [], row.description
        assert read["eth.src"][0] == OWN_MAC.hex(":")
        assert read[f"{outer}.src"][0] == str(world.address)
        if flavour.name != "gue":
            assert read[f"{inner}.src"][-1] == str(CLIENTS[family])
            assert read[f"{inner}.dst"][-1] == str(VIPS[family])
        assert set(read["ip.checksum.status"]) <= {GOOD}
        protocols = read["frame.protocols"][0].split(":")
        assert PROTOCOLS.get(flavour.name, "udp" if flavour.name == "gue" else outer) in protocols
        if flavour.name != "ipip":
            without = NOT_THERE if flavour.version == 4 else ILLEGAL
            status = GOOD if flavour.checksum else without
            assert read["udp.checksum.status"][0] == status, row.description
        if flavour.name in ("vxlan", "geneve"):
            (vni,) = read[f"{flavour.name}.vni"]
            assert int(vni, 0) == flavour.vni
