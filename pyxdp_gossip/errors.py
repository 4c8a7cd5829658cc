# SPDX-License-Identifier: BSD-2-Clause
"""Exceptions whose class says whose fault it is.

The text of each is one line that says what to do; the command line prints it as it is.
"""


class GossipError(Exception):
    """Base of everything this package raises on purpose."""


class ConfigError(GossipError):
    """The operator's file or flags: names the file, the key, the value and what is allowed."""


class HostError(GossipError):
    """This machine: a missing privilege, kernel feature, interface, driver or package."""


class DuplicateHostError(GossipError):
    """Another running host of the POP has this host's id, and this one is the younger."""


class PeerError(GossipError):
    """A datagram of a peer was refused; never leaves the gossip core, only counted.

    Args:
        reason: name of the counter in `GossipCounters` that this refusal raises.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
