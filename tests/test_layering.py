# SPDX-License-Identifier: BSD-2-Clause
"""Which module may import which: the layers of docs/architecture.md, enforced."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pyxdp_gossip"

# Module or folder → what of the package it may import. A folder may import itself.
ALLOWED = {
    "errors": set(),
    "digests": set(),
    "lean_imports": set(),
    "netlink_formats": {"lean_imports"},
    "session": set(),
    "config_table": {"errors", "session"},
    "timing": set(),
    "key_file": {"errors"},
    "quic_lb": set(),
    "config_quic": {"config_table", "errors", "quic_lb", "session"},
    "config_dataplane": {"config_table", "encapsulation"},
    "config": {
        "config_dataplane", "config_quic", "config_table", "encapsulation", "errors", "key_file",
        "quic_lb", "session", "timing",
    },
    "_native": set(),
    "_libxdp_build": set(),
    "gossip": {"_native", "config", "digests", "errors", "key_file", "session", "timing"},
    "encapsulation": set(),
    "templates": {"_native", "encapsulation"},
    "stats": {"_counters", "_native"},
    "explanation": {"_native", "encapsulation", "session", "stats"},
    "tunnel_receiver": {"dataplane_settings", "encapsulation", "session"},
    "receiver_maps": {"bpf_object", "dataplane_settings", "tunnel_receiver"},
    "forwarder": {
        "_native", "explanation", "quic_lb", "session", "templates", "tunnel_receiver",
    },
    "gossip_socket": {"_native", "config", "errors", "session"},
    "netlink_socket": {"errors"},
    "netlink_follower": {"netlink_formats", "netlink_socket", "errors"},
    "sockets_diag": {"netlink_socket", "errors", "session"},
    "ingress_filter": {"netlink_formats", "netlink_socket", "errors"},
    "kernel_mounts": {"errors"},
    "interfaces": {"netlink_formats", "errors", "netlink_socket"},
    "netlink": {
        "errors", "session", "netlink_formats", "netlink_socket", "netlink_follower",
        "sockets_diag", "ingress_filter", "interfaces", "kernel_mounts",
    },
    "bpf_object": {"_libxdp", "errors"},
    "_rings": set(),
    "placement": {"errors"},
    "busy_poll": {"errors"},
    "umem": {"_libxdp", "_rings", "bpf_object", "errors"},
    "several_buffers": {"device_answers"},
    "xsk": {
        "_libxdp", "_rings", "bpf_object", "errors", "netlink", "several_buffers", "umem",
        "xsk_types",
    },
    "xsk_types": set(),
    "xsk_plane": {"bpf_object", "busy_poll", "errors", "placement", "xsk"},
    "dataplane_settings": {"encapsulation", "quic_lb", "session"},
    "mss_clamp": {"_libxdp", "bpf_object"},
    "agent_settings": {"config", "dataplane_settings", "errors", "netlink", "session"},
    "template_slots": {"encapsulation", "errors", "templates"},
    "pins": {
        "_native", "bpf_object", "dataplane_settings", "digests", "errors", "forwarder", "netlink",
        "session", "template_slots",
    },
    "attachments": {"bpf_object", "dataplane_settings", "netlink", "session"},
    "dataplane": {
        "_native", "attachments", "bpf_object", "dataplane_settings", "encapsulation", "forwarder",
        "mss_clamp", "netlink", "pins", "receiver_maps", "service_array", "session", "stats",
        "template_slots", "templates", "xsk", "xsk_plane",
    },
    "live_explanation": {"dataplane", "explanation"},
    "live_changes": {
        "agent", "config", "errors", "gossip", "kernel_events", "key_file", "session",
    },
    "service_array": {"_native", "forwarder", "quic_lb", "session"},
    "incarnation": set(),
    "interface_watch": {"dataplane", "errors", "gossip_socket", "netlink", "session"},
    "queue_watch": {"dataplane", "errors", "netlink"},
    "kernel_events": {"_native", "dataplane", "dataplane_settings", "gossip", "netlink", "session"},
    "routing": {
        "dataplane", "dataplane_settings", "errors", "gossip", "netlink", "session", "templates",
    },
    "probes": {"gossip", "gossip_socket", "routing", "session", "templates"},
    "claims": {"gossip"},
    "agent": {
        "_native", "agent_settings", "busy_poll", "claims", "config", "dataplane", "errors",
        "gossip", "gossip_socket", "incarnation", "interface_watch", "kernel_events",
        "netlink", "pins", "probes", "questions", "queue_watch", "routing", "session", "stats",
        "templates",
    },
    "questions": {"dataplane", "gossip", "session", "errors"},
    "node_events": {"gossip", "interface_watch", "queue_watch"},
    "agent_thread": {"agent", "config", "errors", "node_events"},
    "node": {
        "agent", "agent_thread", "config", "explanation", "gossip", "key_file", "live_changes",
        "live_explanation", "node_events", "session", "stats",
    },
    "popbox": {"errors", "netlink", "bpf_object"},
    "sim": {"_native", "config", "errors", "gossip", "key_file", "session", "timing"},
    "capture": {"errors"},
    "pop_state": {
        "_native", "config", "config_table", "dataplane_settings", "encapsulation", "errors",
        "forwarder", "gossip", "session", "templates", "tunnel_receiver",
    },
    "replay": {"capture", "forwarder", "pop_state", "session", "stats", "templates"},
    "live_snapshot": {
        "_native", "bpf_object", "dataplane_settings", "errors", "explanation", "forwarder",
        "pins", "receiver_maps", "service_array", "session",
    },
    "live_dump": {
        "_native", "dataplane_settings", "encapsulation", "explanation", "forwarder",
        "live_snapshot", "session", "templates",
    },
    "packet_commands": {
        "capture", "config", "errors", "explanation", "forwarder", "live_dump", "live_snapshot",
        "netlink", "pop_state", "replay",
    },
    "xdp_drivers": set(),
    "device_answers": {"netlink_formats", "interfaces", "netlink_socket"},
    "kernel_probes": {"netlink_formats", "_libxdp", "errors", "netlink", "netlink_socket"},
    "features": {
        "dataplane_settings", "device_answers", "errors", "kernel_probes", "netlink",
        "xdp_drivers", "xsk",
    },
    "listeners": {"netlink_socket", "session", "sockets_diag"},
    "diagnosis": {"config", "features", "netlink", "session"},
    "doctor_host": {"diagnosis", "errors", "features", "kernel_mounts", "netlink", "xdp_drivers"},
    "doctor_network": {
        "bpf_object", "dataplane_settings", "device_answers", "diagnosis", "encapsulation",
        "errors", "listeners", "live_snapshot", "netlink", "session",
    },
    "doctor": {
        "config", "diagnosis", "doctor_host", "doctor_network", "errors", "features", "netlink",
        "session",
    },
    "doctor_command": {"doctor", "errors"},
    "cli": {
        "config", "doctor_command", "errors", "key_file", "lean_imports", "node",
        "packet_commands", "popbox", "sim", "stats",
    },
    "__main__": {"cli"},
    "__init__": {
        "config", "dataplane_settings", "errors", "explanation", "features", "forwarder",
        "gossip", "interface_watch", "node", "node_events", "queue_watch", "quic_lb", "session",
        "stats", "templates", "tunnel_receiver", "xsk", "_native",
    },
}  # fmt: skip

# What does I/O: not for the pure modules.
PURE = (
    "errors", "session", "config_table", "timing", "templates", "stats", "explanation", "forwarder",
    "gossip", "quic_lb", "claims",
)  # fmt: skip
DOES_IO = {
    "asyncio", "multiprocessing", "os", "random", "secrets", "select", "selectors", "signal",
    "socket", "subprocess", "threading", "time",
}  # fmt: skip


def unit_of(path: Path) -> str:
    """The name under which a file stands in ALLOWED: its module, or its folder."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".pyx").removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, those of the package by full name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            module = node.module or ""
            names |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return names


def package_units(path: Path) -> set[str]:
    found = set()
    for name in imports_of(path):
        if name.startswith("pyxdp_gossip."):
            unit = name.split(".")[1]
            if (PACKAGE / f"{unit}.py").exists() or (PACKAGE / unit).is_dir() or unit[0] == "_":
                found.add(unit)
    return found - {unit_of(path)}


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_its_layer_allows(path: Path) -> None:
    unit = unit_of(path)
    assert unit in ALLOWED, f"{unit} has no line in ALLOWED"
    assert package_units(path) <= ALLOWED[unit]


def test_the_arrows_have_no_cycle() -> None:
    seen: list[str] = []

    def visit(unit: str, way: tuple[str, ...]) -> None:
        assert unit not in way, " → ".join((*way, unit))
        if unit not in seen:
            for below in ALLOWED.get(unit, set()):
                visit(below, (*way, unit))
            seen.append(unit)

    for unit in ALLOWED:
        visit(unit, ())


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if unit_of(path) in PURE],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_a_pure_module_imports_nothing_that_does_io(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports_of(path)} & DOES_IO


def test_the_c_core_knows_no_python_and_bpf_only_uapi_headers() -> None:
    for path in (ROOT / "csrc").rglob("*.[ch]"):
        assert "Python.h" not in path.read_text(), path.name
    shared = {"xg_types.h", "packet_parse.h", "services.h", "header_template.h", "stats.h",
              "decide.h", "session_lookup.h", "siphash.h", "aes128.h"}  # fmt: skip
    for name in shared:
        for line in (ROOT / "csrc" / name).read_text().splitlines():
            if line.startswith("#include <"):
                assert line.startswith("#include <linux/"), f"{name}: {line}"
