# SPDX-License-Identifier: BSD-2-Clause
"""Recorded answers of the kernel about devices, and the words made of them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from pyxdp_gossip.dataplane_settings import DRIVERS_TO_COPY
from pyxdp_gossip.device_answers import Attached, DeviceAnswer, device_answer
from pyxdp_gossip.doctor import effective_capabilities
from pyxdp_gossip.features import DeviceFacts, Features, features_of
from pyxdp_gossip.kernel_probes import PROBES, Answer
from pyxdp_gossip.xdp_drivers import DRIVERS, needed_for, release

ROOT = Path(__file__).resolve().parents[2]

# Replies to NETDEV_CMD_DEV_GET, from the nlmsghdr on, as Linux 6.18 gave them.
LOOPBACK = bytes.fromhex(
    "400000001400000001000000ba060000" "01010000" "0800010001000000"
    "0c0003000000000000000000" "0c0005000000000000000000" "0c0006000000000000000000"
)  # fmt: skip
VETH = bytes.fromhex(
    "400000001400000001000000ba060000" "01010000" "0800010002000000"
    "0c0003002300000000000000" "0c0005000700000000000000" "0c0006000000000000000000"
)  # fmt: skip
# Without what Linux 6.3 does not tell.
OLD = bytes.fromhex("280000001400000001000000ba060000" "01010000" "0800010002000000"
                    "0c0003002300000000000000")  # fmt: skip

ALL_YES: dict[str, Answer] = dict.fromkeys(PROBES, True)
FACTS = DeviceFacts(
    interface="eth0", driver="ice", kernel="6.18.44", rx_queues=4, multicast=True,
    attached=None, answer=DeviceAnswer(xdp=127, zero_copy_buffers=8, rx_metadata=7, xsk=0), napi=[],
)  # fmt: skip


def words(facts: DeviceFacts) -> Features:
    return features_of(facts, ALL_YES)


def state(found: Features) -> dict[str, str]:
    return {one.name: one.state for one in found.all}


def test_a_recorded_answer_is_read() -> None:
    assert device_answer(LOOPBACK) == DeviceAnswer(0, None, 0, 0)
    assert device_answer(VETH) == DeviceAnswer(35, None, 7, 0)
    assert device_answer(OLD) == DeviceAnswer(35, None, None, None)


def test_a_veth_has_native_xdp_and_no_zero_copy() -> None:
    found = words(replace(FACTS, driver="veth", answer=device_answer(VETH)))
    assert state(found) | {
        "native-xdp": "yes", "af-xdp-zero-copy": "no", "multi-buffer": "yes", "redirect": "yes",
        "ndo-xdp-xmit": "no", "rx-timestamp": "yes", "rx-vlan": "yes", "hardware-offload": "no",
    } == state(found)  # fmt: skip
    assert "a driver that has it" in found["af-xdp-zero-copy"].needs
    assert (found.auto, found.auto_because) == ("copy", "the driver has no zero-copy")


def test_what_a_kernel_does_not_tell_is_not_called_missing() -> None:
    found = words(replace(FACTS, answer=device_answer(OLD)))
    assert str(found["rx-hash"]) == "could not tell: Linux before 6.7 does not tell"
    found = words(replace(FACTS, answer="Linux before 6.3 does not tell"))
    assert state(found)["native-xdp"] == state(found)["af-xdp-zero-copy"] == "unknown"
    assert found.auto == ""


def test_an_attached_program_shows_native_xdp_on_any_kernel() -> None:
    found = words(replace(FACTS, answer="not told", attached=Attached("native", 7)))
    assert found["native-xdp"].state == "yes"


@pytest.mark.parametrize(("bound", "said"), [(True, "yes"), (False, "no"), (None, "yes")])
def test_what_a_bind_gave_counts_more_than_the_drivers_word(bound: Answer, said: str) -> None:
    found = words(replace(FACTS, bound=bound))
    assert found["af-xdp-zero-copy"].state == said
    assert found.auto == ("zero-copy" if said == "yes" else "copy")


@pytest.mark.parametrize("driver", sorted(DRIVERS_TO_COPY))
def test_auto_is_explained_by_the_rule_that_picks_it(driver: str) -> None:
    found = words(replace(FACTS, driver=driver))
    assert found["af-xdp-zero-copy"].state == "yes"
    assert found.auto == "copy"
    assert driver in found.auto_because


def test_without_native_xdp_auto_is_generic() -> None:
    assert words(replace(FACTS, answer=DeviceAnswer(xdp=0))).auto == "skb"


def test_a_missing_privilege_is_no_missing_feature() -> None:
    found = features_of(FACTS, ALL_YES | {"ring-buffer": "needs CAP_BPF", "sockops": False})
    assert str(found["ring-buffer"]) == "could not tell: needs CAP_BPF"
    assert str(found["sockops"]) == "no: needs Linux 4.13 with CONFIG_CGROUP_BPF"


def test_what_is_needed_is_a_kernel_where_the_driver_got_it_later() -> None:
    assert needed_for("zero_copy", "virtio_net", "6.1.0") == "Linux 6.13 for virtio_net"
    assert "ice" in needed_for("zero_copy", "veth", "6.18.0")
    assert needed_for("native", None, "6.18.0") == "another driver"


@pytest.mark.parametrize(
    ("text", "number"), [("6.18.44-cloud", (6, 18)), ("6.1-rc3", (6, 1)), ("new", (0, 0))]
)
def test_a_release_is_compared_as_numbers(text: str, number: tuple[int, int]) -> None:
    assert release(text) == number


def test_effective_capabilities_are_read() -> None:
    assert effective_capabilities("Name:\tx\nCapEff:\t0000000000003000\n") == {12, 13}
    assert effective_capabilities("Name:\tx\n") == frozenset()


def test_the_documented_table_of_drivers_is_the_one_in_use() -> None:
    text = (ROOT / "docs/zero-copy.md").read_text().partition("| driver | native XDP |")[2]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \|", text, re.M)
    plain = {name: tuple(value.rstrip("*") for value in values) for name, *values in rows}
    assert plain == {name: tuple(value or "no" for value in one) for name, one in DRIVERS.items()}
