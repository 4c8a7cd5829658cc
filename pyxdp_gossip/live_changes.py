# SPDX-License-Identifier: BSD-2-Clause
"""What of a configuration a running agent takes: other keys, and further services."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pyxdp_gossip.agent import Agent
from pyxdp_gossip.config import SERVICES_MAX
from pyxdp_gossip.errors import ConfigError
from pyxdp_gossip.gossip.events import KeysChanged, ServicesChanged
from pyxdp_gossip.kernel_events import tcp_services
from pyxdp_gossip.key_file import Key
from pyxdp_gossip.session import Service


def change_keys(agent: Agent, keys: Sequence[Key]) -> None:
    """Seals with the first of these from now on, and opens with any.

    Raises:
        ConfigError: there is none, or this POP seals nothing.
    """
    if not keys or agent.config.gossip.insecure:
        raise ConfigError("[gossip] key_file: keys change only where there are some")
    agent.core.handle_event(KeysChanged(tuple(keys)), time.monotonic_ns())
    agent.routing.change_secrets([key.secret for key in keys])
    agent.log.info("keys changed", first=keys[0].id, keys=len(keys))


def change_services(agent: Agent, services: Sequence[Service]) -> list[Service]:
    """Takes those of these services that are new here, each in a slot of its own.

    A slot never changes its service: tables, digests and the others' dictionaries name it. So
    whatever is served stays until the agent starts anew.

    Returns:
        The services that stay though they are not among these.

    Raises:
        ConfigError: they are too many; nothing was changed.
        HostError: the kernel refused; what it did not tell is asked again soon.
    """
    added = [service for service in services if service not in agent.slots]
    stay = [service for service in agent.slots if service not in services]
    if len(agent.slots) + len(added) > SERVICES_MAX:
        raise ConfigError(f"[[service]]: at most {SERVICES_MAX}, those that stay included")
    if not added:
        return stay
    now = time.monotonic_ns()
    further = dict(enumerate(added, len(agent.slots)))
    slots = {service: slot for slot, service in further.items()}
    # The programs first, then the sockets that are there: none falls between. The others hear
    # what the new slots mean before they hear of a session.
    agent.dataplane.change_services(agent.slots | slots)
    agent.services.update(further)
    agent.slots.update(slots)
    agent.core.handle_event(ServicesChanged(dict(agent.services)), now)
    found = agent.kernel.change_services(tcp_services(agent.services), now)
    agent.core.handle_event(found, now)
    agent.log.info("services added", services=[str(service) for service in added])
    return stay
