# SPDX-License-Identifier: BSD-2-Clause
"""Hosts behind an ECMP router gossip who owns which session and send each stray to its owner."""

from pyxdp_gossip._native import EventRing, OwnerStates, SessionTable
from pyxdp_gossip.config import Config
from pyxdp_gossip.dataplane_settings import PeerCookies
from pyxdp_gossip.errors import (
    ConfigError,
    DuplicateHostError,
    GossipError,
    HostError,
    PeerError,
)
from pyxdp_gossip.explanation import Explanation, Step, explain
from pyxdp_gossip.features import Feature, Features, features
from pyxdp_gossip.forwarder import Forwarder, session_key
from pyxdp_gossip.gossip import GossipCore, LocalHost
from pyxdp_gossip.gossip.events import (
    DuplicateHost,
    IncompatibleHost,
    MemberChanged,
    MemberState,
    Synced,
    UnknownService,
)
from pyxdp_gossip.interface_watch import InterfaceChanged, InterfaceState
from pyxdp_gossip.node import Node
from pyxdp_gossip.node_events import EventsLost, EventStream, NodeEvent
from pyxdp_gossip.queue_watch import QueuesChanged
from pyxdp_gossip.quic_lb import QuicLb
from pyxdp_gossip.session import Service, Session
from pyxdp_gossip.stats import Statistics
from pyxdp_gossip.templates import HeaderTemplate, TemplateOffsets
from pyxdp_gossip.tunnel_receiver import TunnelReceiver
from pyxdp_gossip.xsk import Umem, XskProgram, XskSocket, XskStatistics

__all__ = [
    "Config",
    "ConfigError",
    "DuplicateHost",
    "DuplicateHostError",
    "EventRing",
    "EventStream",
    "EventsLost",
    "Explanation",
    "Feature",
    "Features",
    "Forwarder",
    "GossipCore",
    "GossipError",
    "HeaderTemplate",
    "HostError",
    "IncompatibleHost",
    "InterfaceChanged",
    "InterfaceState",
    "LocalHost",
    "MemberChanged",
    "MemberState",
    "Node",
    "NodeEvent",
    "OwnerStates",
    "PeerCookies",
    "PeerError",
    "QueuesChanged",
    "QuicLb",
    "Service",
    "Session",
    "SessionTable",
    "Statistics",
    "Step",
    "Synced",
    "TemplateOffsets",
    "TunnelReceiver",
    "Umem",
    "UnknownService",
    "XskProgram",
    "XskSocket",
    "XskStatistics",
    "explain",
    "features",
    "session_key",
]
