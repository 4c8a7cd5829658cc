# SPDX-License-Identifier: BSD-2-Clause
"""What a check of `doctor` is given and what it says (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pyxdp_gossip.config import Config
from pyxdp_gossip.features import Features
from pyxdp_gossip.netlink import Link
from pyxdp_gossip.session import Address


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `doctor`.

    Attributes:
        check: its name.
        state: "ok", "warning" or "problem".
        text: what was found.
        remedy: what to do; "" if nothing.
    """

    check: str
    state: Literal["ok", "warning", "problem"]
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.state:<8} {self.check}: {self.text}" + (
            f"; {self.remedy}" if self.remedy else ""
        )


@dataclass(frozen=True, slots=True)
class Patient:
    """What is examined.

    Attributes:
        config: None: no configuration was given.
        key_problem: what is wrong with the key file, if the rest of the configuration is right.
        interface: its name, or "".
        link: None: there is no such interface.
        address: of this host in the underlay, if it is known.
        capabilities: numbers of those that this process has.
    """

    config: Config | None
    key_problem: str
    path: Path | None
    interface: str
    link: Link | None
    address: Address | None
    features: Features
    capabilities: frozenset[int]
