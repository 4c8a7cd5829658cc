# SPDX-License-Identifier: BSD-2-Clause
"""Hosts behind an ECMP router gossip who owns which session and send each stray to its owner."""

from pyxdp_gossip._native import EventRing, OwnerStates, SessionTable
from pyxdp_gossip.config import Config
from pyxdp_gossip.errors import (
    ConfigError,
    DuplicateHostError,
    GossipError,
    HostError,
    PeerError,
)
from pyxdp_gossip.explanation import Explanation, Step, explain
from pyxdp_gossip.forwarder import Forwarder, session_key
from pyxdp_gossip.gossip import GossipCore
from pyxdp_gossip.node import Node
from pyxdp_gossip.session import Service, Session
from pyxdp_gossip.stats import Statistics
from pyxdp_gossip.templates import HeaderTemplate

__all__ = [
    "Config",
    "ConfigError",
    "DuplicateHostError",
    "EventRing",
    "Explanation",
    "Forwarder",
    "GossipCore",
    "GossipError",
    "HeaderTemplate",
    "HostError",
    "Node",
    "OwnerStates",
    "PeerError",
    "Service",
    "Session",
    "SessionTable",
    "Statistics",
    "Step",
    "explain",
    "session_key",
]
