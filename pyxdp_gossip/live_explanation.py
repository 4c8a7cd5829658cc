# SPDX-License-Identifier: BSD-2-Clause
"""Explains a frame by a running host's tables and its kernel's sockets."""

from __future__ import annotations

from pyxdp_gossip.dataplane import Dataplane
from pyxdp_gossip.explanation import Explanation, explain


def explain_on_host(dataplane: Dataplane, frame: bytes) -> Explanation:
    """What this host's XDP program does with a frame, the floods' budgets apart.

    The kernel is asked only if its answer counts, by a test run of the host's own BPF program:
    nothing is counted, sent or told.

    Raises:
        HostError: the kernel refused the test run.
    """
    forwarder = dataplane.forwarder()
    found = explain(frame, forwarder)
    if found.asks_kernel:
        return explain(frame, forwarder, kernel_knows=dataplane.kernel_knows(found.question))
    return found
