# SPDX-License-Identifier: BSD-2-Clause
"""`Config.lan()` and `Config.loopback()`: what they say, and that their formulas are kept."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from gossip_pop import MS, Pop, event

from pyxdp_gossip.config import Config
from pyxdp_gossip.errors import ConfigError
from pyxdp_gossip.gossip.events import MemberState
from pyxdp_gossip.gossip.records import EventKind
from pyxdp_gossip.gossip.wire import DatagramType, decode_header
from pyxdp_gossip.key_file import Key
from pyxdp_gossip.session import Service
from pyxdp_gossip.timing import PRESETS, Timing

Make = Callable[..., Config]
MAKERS: dict[str, Make] = {"lan": Config.lan, "loopback": Config.loopback}
SERVICE = Service(ip_address("198.51.100.1"), 443, "tcp")
SERVICE6 = Service(ip_address("2001:db8::1"), 53, "udp")
KEYS = (Key(7, bytes(range(32))), Key(1, bytes(range(1, 33))))
LEAST: dict[str, Any] = {
    "host_id": 3,
    "interface": "eth0",
    "services": [SERVICE, SERVICE6],
    "group": "239.192.7.1:7946",
}

both = pytest.mark.parametrize("preset", ["lan", "loopback"])


# ---- the configuration ----


@both
def test_the_least_gives_what_the_file_with_this_preset_gives(preset: str, tmp_path: Path) -> None:
    made = MAKERS[preset](**LEAST, insecure=True)
    rows = "".join(
        f'[[service]]\nvip = "{one.vip}"\nport = {one.port}\nprotocol = "{one.protocol}"\n'
        for one in (SERVICE, SERVICE6)
    )
    path = tmp_path / "pop.toml"
    path.write_text(
        '[host]\nid = 3\ninterface = "eth0"\n[gossip]\ngroup = "239.192.7.1:7946"\n'
        f'insecure = true\npreset = "{preset}"\n{rows}'
    )
    assert made == Config.load(path)
    assert made.gossip.timing == PRESETS[preset]


def test_keys_of_the_program_take_the_place_of_a_key_file() -> None:
    config = Config.lan(**LEAST, keys=KEYS)
    assert (config.gossip.keys, config.gossip.insecure, config.warnings) == (KEYS, False, ())
    with pytest.raises(ConfigError, match="neither `key_file` nor `insecure`"):
        Config.lan(**LEAST, keys=KEYS, insecure=True)
    with pytest.raises(ConfigError, match="neither `key_file` nor `insecure`"):
        Config.lan(**LEAST, keys=KEYS, key_file="gossip.key")
    with pytest.raises(ConfigError, match=r"^Config.lan\(\):1: expected `id base64"):
        Config.lan(**LEAST, keys=[Key(1, b"short")])
    with pytest.raises(ConfigError, match="key id 7 is there twice"):
        Config.lan(**LEAST, keys=[KEYS[0], KEYS[0]])


def test_further_keys_and_tables_are_those_of_the_file() -> None:
    config = Config.loopback(
        **LEAST,
        keys=KEYS,
        address="10.8.0.13",
        site=5,
        flush_interval_ms=3,
        tables={"dataplane": {"plane": "xdp"}, "table": {"sessions_v4": 1000}},
    )
    assert config.host.address == ip_address("10.8.0.13")
    assert (config.gossip.site, config.dataplane.plane) == (5, "xdp")
    assert config.table.sessions_v4 == 1000
    assert config.gossip.timing == replace(PRESETS["loopback"], flush_interval_ms=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"services": []}, r"no \[\[service\]\] is there"),
        ({"services": [SERVICE, SERVICE]}, "each service once"),
        ({"host_id": 70_000}, "id is 70000"),
        ({"address": "239.1.1.1"}, "own unicast address"),
        ({"group": "10.0.0.1:1"}, "expected a multicast address"),
        ({"groop": 1}, "unknown key `groop`"),
        ({"preset": "loopback"}, "`preset` is chosen by the name"),
        ({"tables": {"datapane": {}}}, "unknown key `datapane` in the file"),
    ],
)
def test_a_wrong_argument_is_one_line_that_names_the_call(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Config.lan(**LEAST | {"insecure": True} | changes)
    assert str(caught.value).startswith("Config.lan(): ")


# ---- the formulas ----


def test_the_docstrings_numbers_are_the_presets() -> None:
    lan, loopback = PRESETS["lan"], PRESETS["loopback"]
    said = " ".join((Config.lan.__doc__ or "").split())
    for name, value in re.findall(r"`(\w+)` = [^:]*?([\d.]+)(?: Mbit/s)?:", said):
        told = float(value)
        if name == "heartbeats_per_s":
            assert f"hosts * 1000 / {lan.heartbeat_ms}:" in said
        elif name == "join_bits_per_s":
            assert told * 1_000_000 == lan.join_bits_per_s
        else:
            assert told == getattr(lan, name)
    names = ("death_ms", "nack_give_up_ms", "join_bits_per_s", "heartbeats_per_s")
    assert [name for name in names if f"`{name}` = " not in said] == []
    said = " ".join((Config.loopback.__doc__ or "").split())
    assert f"`death_ms` = 100 * 5 + 50 * 4 = {loopback.death_ms}." in said
    assert f"`alone_ms` = {loopback.alone_ms}" in said


def ms_until(pop: Pop, happened: Callable[[], bool], most: int) -> float:
    """How long it takes, to half a millisecond."""
    for halves in range(2 * most):
        if happened():
            return halves / 2
        pop.run_step()
    raise AssertionError(f"not within {most} ms")


@both
def test_a_host_is_dead_exactly_death_ms_after_its_last_heartbeat(preset: str) -> None:
    pop = Pop(PRESETS[preset])
    first, second = pop.start_all(1, 2)
    pop.run(1000)
    heard = first.core.counters.datagrams_in
    ms_until(pop, lambda: first.core.counters.datagrams_in > heard, 110)
    second.running = second.up = False
    second_is_dead = lambda: first.states(2)[-1] is MemberState.DEAD  # noqa: E731
    assert ms_until(pop, second_is_dead, 2000) == PRESETS[preset].death_ms
    assert first.core.counters.probes_wanted == PRESETS[preset].probe_attempts


@both
def test_a_batch_that_never_comes_is_given_up_after_nack_give_up_ms(preset: str) -> None:
    timing = PRESETS[preset]
    pop = Pop(timing)
    first, second = pop.start_all(1, 2)
    first.core._repairer.asked = lambda *_: None  # type: ignore[method-assign]
    pop.loses = lambda source, _target, _data: source == first.address
    pop.happens(first, event(EventKind.OPEN, 1))
    pop.run(3)  # longer than a flush interval
    pop.loses = lambda *_: False
    pop.happens(first, event(EventKind.OPEN, 2))
    ms_until(pop, lambda: second.core.counters.batches_asked > 0, 110)
    given_up = lambda: second.core.counters.batches_given_up > 0  # noqa: E731
    assert ms_until(pop, given_up, 2000) == timing.nack_give_up_ms
    assert second.core.counters.batches_asked == timing.nack_tries


@both
def test_a_join_gets_as_much_as_join_bits_per_s_and_no_more(preset: str) -> None:
    timing = PRESETS[preset]
    pop = Pop(timing)
    first = pop.start(1)
    pop.run(1100)
    for start in range(0, 12_000, 1000):
        pop.happens(first, *(event(EventKind.OPEN, start + one) for one in range(1000)))
        pop.run(10)
    second = pop.start(2)
    bits: Counter[int] = Counter()
    for _ in range(2 * 300):
        pop.recorded.clear()
        pop.run_step()
        for data in pop.recorded:
            if decode_header(data).type is DatagramType.SNAPSHOT:
                bits[pop.now // (timing.shard_tick_ms * MS)] += 8 * len(data)
    assert second.owner(11_999) == 1
    most = timing.join_bits_per_s * timing.shard_tick_ms // 1000
    full = sorted(bits)[1:-1]  # the first tick and the last may be cut
    assert len(full) > 2
    assert all(0.99 * most < bits[tick] <= most for tick in full)


@both
@pytest.mark.parametrize("count", [2, 6])
def test_a_pop_at_rest_brings_heartbeats_per_s_to_each_host(preset: str, count: int) -> None:
    timing = PRESETS[preset]
    pop = Pop(timing)
    pop.start_all(*range(1, count + 1))
    pop.run(1000)
    pop.recorded.clear()
    pop.run(1000)
    beats = [data for data in pop.recorded if decode_header(data).type is DatagramType.LOG]
    assert len(beats) == timing.heartbeats_per_s(count)


def test_more_in_each_formula_is_what_its_docstring_says() -> None:
    base = Timing()
    assert replace(base, heartbeat_ms=50).death_ms == base.death_ms - 150
    assert replace(base, probe_attempts=5).death_ms == base.death_ms + base.probe_interval_ms
    assert replace(base, nack_tries=11).nack_give_up_ms == base.nack_give_up_ms + 80
    assert replace(base, shard_burst=32).join_bits_per_s == 2 * base.join_bits_per_s
    assert replace(base, shard_tick_ms=4).join_bits_per_s == base.join_bits_per_s // 2
    assert replace(base, heartbeat_ms=200).heartbeats_per_s(10) == base.heartbeats_per_s(10) // 2
