# SPDX-License-Identifier: BSD-2-Clause
"""pyroute2's formats of netlink messages, a copy of our own: the package is not imported."""

from pyxdp_gossip.lean_imports import apart

with apart("pyroute2"):
    from pyroute2.netlink import ctrlmsg, genlmsg
    from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_MCAUTOJOIN, IFA_F_NODAD, ifaddrmsg
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
    from pyroute2.netlink.rtnl.ndmsg import (
        NTF_EXT_LEARNED,
        NTF_USE,
        NUD_DELAY,
        NUD_NOARP,
        NUD_PERMANENT,
        NUD_PROBE,
        NUD_REACHABLE,
        NUD_STALE,
        ndmsg,
    )
    from pyroute2.netlink.rtnl.rtmsg import rtmsg
    from pyroute2.netlink.rtnl.tcmsg import tcmsg

__all__ = [
    "IFA_F_MCAUTOJOIN",
    "IFA_F_NODAD",
    "NTF_EXT_LEARNED",
    "NTF_USE",
    "NUD_DELAY",
    "NUD_NOARP",
    "NUD_PERMANENT",
    "NUD_PROBE",
    "NUD_REACHABLE",
    "NUD_STALE",
    "ctrlmsg",
    "genlmsg",
    "ifaddrmsg",
    "ifinfmsg",
    "ndmsg",
    "rtmsg",
    "tcmsg",
]
