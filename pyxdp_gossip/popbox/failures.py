# SPDX-License-Identifier: BSD-2-Clause
"""The one exception of the box: what could not be set up, and what to do about it."""

from pyxdp_gossip.errors import HostError


class BoxError(HostError):
    """The box could not be built or driven; the message is one line for an operator."""
