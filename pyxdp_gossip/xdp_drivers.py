# SPDX-License-Identifier: BSD-2-Clause
"""Since which kernel which driver has native XDP, frames in several buffers, and zero-copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class Since(NamedTuple):
    """The first Linux release with it, or "" for none known."""

    native: str
    multi_buffer: str = ""
    zero_copy: str = ""


DRIVERS: Final[Mapping[str, Since]] = {
    "atlantic": Since("5.19", "5.19"),
    "bnxt_en": Since("4.11", "5.19"),
    "bond": Since("5.15"),
    "ena": Since("5.6"),
    "fsl_dpaa2_eth": Since("5.0", "", "6.2"),
    "fsl_enetc": Since("5.13"),
    "gve": Since("6.4", "", "6.4"),
    "hv_netvsc": Since("5.6"),
    "i40e": Since("4.13", "6.4", "4.20"),
    "ice": Since("5.5", "6.3", "5.5"),
    "igb": Since("5.10", "", "6.14"),
    "igc": Since("5.13", "", "5.14"),
    "ionic": Since("6.9", "6.9"),
    "ixgbe": Since("4.12", "", "4.20"),
    "ixgbevf": Since("4.17"),
    "mana": Since("5.17"),
    "mlx4_en": Since("4.8"),
    "mlx5_core": Since("4.9", "6.4", "5.3"),
    "mvneta": Since("5.5", "5.18"),
    "nfp": Since("4.10", "", "5.18"),
    "qede": Since("4.10"),
    "sfc": Since("5.5"),
    "st_gmac": Since("5.13", "", "5.13"),
    "tsnep": Since("6.3", "", "6.4"),
    "tun": Since("4.14"),
    "veth": Since("4.19", "5.18"),
    "virtio_net": Since("4.10", "6.3", "6.13"),
    "vmxnet3": Since("6.6"),
}
"""By the driver's name as ethtool has it, or the kind of a virtual link.

Source: the table of the eBPF documentation, "Driver support" of BPF_PROG_TYPE_XDP, which names the
commit of each; docs/zero-copy.md says which are shown by tests here. It only words what is missing:
whether a device can is asked of the kernel."""


def release(text: str) -> tuple[int, int]:
    """(6, 18) of "6.18.44-cloud"; (0, 0) of what is no release."""
    major, _, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    return (int(major), int(digits)) if major.isdecimal() and digits else (0, 0)


def needed_for(what: str, driver: str | None, kernel: str) -> str:
    """What a device without a feature needs, as in "needs ...".

    Args:
        what: a field of `Since`.
        driver: of the device.
        kernel: the running one's release.
    """
    known = DRIVERS.get(driver or "")
    since: str = getattr(known, what) if known else ""
    if since and release(since) > release(kernel):
        return f"Linux {since} for {driver}"
    if since:
        return f"{driver} as Linux {since} has it, or its present settings changed"
    have = sorted(name for name, one in DRIVERS.items() if getattr(one, what))
    return f"a driver that has it: {', '.join(have)}" if what == "zero_copy" else "another driver"
