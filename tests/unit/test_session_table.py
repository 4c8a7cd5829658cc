# SPDX-License-Identifier: BSD-2-Clause
"""The session table and the owner states through the Cython boundary, against plain models."""

from __future__ import annotations

import gc
import struct
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pyxdp_gossip import _native
from pyxdp_gossip._native import ABSENT, LINGER, UNOWNED, Entry, OwnerStates, SessionTable
from pyxdp_gossip.config import SESSIONS_MAX
from pyxdp_gossip.dataplane_settings import FILL, buckets_for

HASH_KEY = bytes(range(16))
MASK64 = (1 << 64) - 1
HOSTS = range(1, 6)


def sip_round(v: list[int]) -> None:
    def rotate(word: int, bits: int) -> int:
        return (word << bits | word >> (64 - bits)) & MASK64

    v[0] = (v[0] + v[1]) & MASK64
    v[1] = rotate(v[1], 13) ^ v[0]
    v[0] = rotate(v[0], 32)
    v[2] = (v[2] + v[3]) & MASK64
    v[3] = rotate(v[3], 16) ^ v[2]
    v[0] = (v[0] + v[3]) & MASK64
    v[3] = rotate(v[3], 21) ^ v[0]
    v[2] = (v[2] + v[1]) & MASK64
    v[1] = rotate(v[1], 17) ^ v[2]
    v[2] = rotate(v[2], 32)


def siphash(key: bytes, message: bytes, block_rounds: int, final_rounds: int) -> int:
    """SipHash-c-d of whole 8-byte words, straight from the paper."""
    k = struct.unpack("<2Q", key)
    start = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)
    v = [word ^ k[i % 2] for i, word in enumerate(start)]
    words = [*struct.unpack(f"<{len(message) // 8}Q", message), len(message) << 56]
    for word in words:
        v[3] ^= word
        for _ in range(block_rounds):
            sip_round(v)
        v[0] ^= word
    v[2] ^= 0xFF
    for _ in range(final_rounds):
        sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def buckets_of(key: bytes, buckets: int) -> tuple[int, int]:
    """The two buckets, from the description in session_lookup.h."""
    low = _native.session_hash(HASH_KEY, key) & 0xFFFFFFFF
    mixed = low ^ low >> 16
    mixed = mixed * 0x85EBCA6B & 0xFFFFFFFF
    mixed ^= mixed >> 13
    mixed = mixed * 0xC2B2AE35 & 0xFFFFFFFF
    mixed = (mixed ^ mixed >> 16) * buckets >> 32
    first = low * buckets >> 32
    return first, mixed ^ 1 if mixed == first else mixed


def make(
    family: int = 4, buckets: int = 64, *, memory: bytearray | None = None
) -> tuple[OwnerStates, SessionTable]:
    owners = OwnerStates()
    for host in HOSTS:
        owners.activate(host)
    return owners, SessionTable(family, buckets, owners, memory=memory, hash_key=HASH_KEY)


def key4(number: int) -> bytes:
    return _native.pack_key4(struct.pack(">I", number >> 16), number & 0xFFFF, 7)


def test_the_reference_siphash_gives_the_published_vector() -> None:
    assert siphash(HASH_KEY, bytes(range(8)), 2, 4) == 0x93F5F5799A932462


@given(
    st.binary(min_size=16, max_size=16),
    st.sampled_from([8, 24]).flatmap(lambda size: st.binary(min_size=size, max_size=size)),
)
def test_the_hash_is_siphash_1_3(hash_key: bytes, key: bytes) -> None:
    assert _native.session_hash(hash_key, key) == siphash(hash_key, key, 1, 3)


def test_keys_are_packed_as_the_c_struct_lays_them_out() -> None:
    assert _native.pack_key4(b"\x01\x02\x03\x04", 0x1234, 0x0506) == bytes.fromhex(
        "0102030412340605"
    )
    address = bytes(range(16))
    assert _native.pack_key6(address, 0x1234, 0x0506) == address + bytes.fromhex("1234060500000000")


@pytest.mark.parametrize(
    ("pack", "address"), [(_native.pack_key4, bytes(4)), (_native.pack_key6, bytes(16))]
)
def test_wrong_address_lengths_ports_and_slots_are_refused(pack, address) -> None:
    with pytest.raises(ValueError, match=f"expected {len(address)}"):
        pack(address + b"x", 1, 1)
    with pytest.raises(ValueError, match="port is 65536"):
        pack(address, 65536, 1)
    with pytest.raises(ValueError, match="slot is -1"):
        pack(address, 1, -1)


class TableAgainstDict(RuleBasedStateMachine):
    """Any sequence of changes leaves in the table what it leaves in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.owners, self.table = make(4, 14)
        self.model: dict[bytes, Entry] = {}
        self.epochs = dict.fromkeys(HOSTS, 0)

    keys = st.integers(0, 50).map(key4)
    hosts = st.sampled_from(list(HOSTS))

    @rule(key=keys, owner=hosts, linger=st.booleans(), clock=st.integers(0, MASK64))
    def put(self, key: bytes, owner: int, linger: bool, clock: int) -> None:
        flags = LINGER if linger else 0
        self.table.put(key, owner, flags=flags, opened_at=clock, position=3, now_ms=9)
        began = 9 if linger else 0
        self.model[key] = Entry(owner, flags, self.epochs[owner], clock, 3, began)

    @rule(key=keys)
    def remove(self, key: bytes) -> None:
        assert self.table.remove(key) == (self.model.pop(key, None) is not None)

    @rule(key=keys)
    def mark_unowned(self, key: bytes) -> None:
        before = self.model.get(key)
        free = before is None or before.owner == UNOWNED or before.flags == LINGER
        assert self.table.mark_unowned(key, 5) == free
        if free:
            self.model[key] = Entry(UNOWNED, 0, 0, 0, 0, 5)

    @rule(host=hosts)
    def void(self, host: int) -> None:
        self.owners.void(host)
        self.epochs[host] = (self.epochs[host] + 1) % 256
        self.model = {key: entry for key, entry in self.model.items() if entry.owner != host}

    @precondition(lambda self: self.model)
    @rule(buckets=st.integers(1, 40))
    def sweep_what_is_void(self, buckets: int) -> None:
        self.table.sweep(buckets, 10, linger_ms=1000, unowned_ms=1000)

    @invariant()
    def agrees(self) -> None:
        keys = [key4(number) for number in range(51)]
        expected = [self.model[key].owner if key in self.model else ABSENT for key in keys]
        assert list(self.table.find_burst(b"".join(keys))) == expected
        assert all(self.table.get(key) == self.model.get(key) for key in keys)
        assert len(self.table) >= len(self.model)


TableAgainstDict.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None
)
test_the_table_agrees_with_a_dict = TableAgainstDict.TestCase


@pytest.mark.parametrize(("family", "key_len"), [(4, 8), (6, 24)])
def test_four_fifths_of_the_slots_fill_without_a_refusal(family: int, key_len: int) -> None:
    _, table = make(family, 1998)
    count = table.capacity * 4 // 5
    keys = [struct.pack("<Q", i * 2654435761).ljust(key_len, b"\0") for i in range(count)]
    for i, key in enumerate(keys):
        table.put(key, 1 + i % 5)
    assert (len(table), table.refused, table.evicted) == (count, 0, 0)
    assert table.moves > 0
    assert list(table.find_burst(b"".join(keys))) == [1 + i % 5 for i in range(count)]


@pytest.mark.parametrize("sessions", [1, 51, 52, 1000, 1_000_000, 1_100_000, SESSIONS_MAX])
def test_a_table_is_no_larger_than_its_sessions_need(sessions: int) -> None:
    buckets = buckets_for(sessions)
    assert SessionTable.required_bytes(4, buckets) > 0
    assert sessions <= buckets * 4 * FILL
    assert buckets == 16 or sessions > (buckets - 2) * 4 * FILL


def test_sessions_that_all_collide_are_refused_beyond_their_neighbourhood() -> None:
    _, table = make(4, 64)
    target = buckets_of(key4(0), 64)
    colliding = [key4(i) for i in range(60000) if set(buckets_of(key4(i), 64)) == set(target)]
    for key in colliding[:8]:
        table.put(key, 1)
    with pytest.raises(OSError, match="No space left"):
        table.put(colliding[8], 1)
    assert (table.refused, len(table)) == (1, 8)
    assert all(table.get(key) is not None for key in colliding[:8])
    others = [key4(i) for i in range(100000, 100100)]
    for key in others:
        if not set(buckets_of(key, 64)) & set(target):
            table.put(key, 2)
            assert table.find_burst(key)[0] == 2


def test_the_second_bucket_spreads_as_well_as_the_first() -> None:
    counts = [0] * 64
    for i in range(6400):
        counts[buckets_of(key4(i), 64)[1]] += 1
    assert sum((count - 100) ** 2 / 100 for count in counts) < 120  # chi-square, 63 degrees


def test_a_dead_owners_entries_go_at_once_and_never_come_back() -> None:
    owners, table = make(4, 64)
    table.put(key4(1), 1)
    table.put(key4(2), 2)
    for _ in range(600):
        owners.void(1)
        assert table.get(key4(1)) is None
        assert table.find_burst(key4(1) + key4(2)).tolist() == [ABSENT, 2]
    assert len(table) == 1


def test_entries_of_the_previous_epoch_count_until_they_are_dropped() -> None:
    owners, table = make()
    table.put(key4(1), 1)
    owners.new_epoch(1)
    table.put(key4(2), 1)
    assert table.find_burst(key4(1) + key4(2)).tolist() == [1, 1]
    owners.drop_previous(1)
    assert table.find_burst(key4(1) + key4(2)).tolist() == [ABSENT, 1]
    owners.void(1)
    owners.new_epoch(1)
    assert table.find_burst(key4(1) + key4(2)).tolist() == [ABSENT, ABSENT]


def test_previous_epochs_do_not_come_back_when_the_epoch_comes_round() -> None:
    owners, table = make()
    table.put(key4(1), 1)
    owners.new_epoch(1)
    for _ in range(600):
        owners.new_epoch(1)
        assert table.get(key4(1)) is None


def test_owner_states_are_what_the_c_struct_says() -> None:
    memory = bytearray(_native.OWNER_STATES_BYTES)
    owners = OwnerStates(memory)
    assert owners.state(0) == (0, 0, 0xFFFF)
    owners.activate(2)
    owners.new_epoch(2)
    owners.set_template(2, 513)
    assert owners.state(2) == (1, 3, 513)
    assert memory[16:24] == bytes.fromhex("01 03 0102 00000000")
    assert OwnerStates(memory).state(2) == (1, 3, 513)
    owners.set_template(2, None)
    owners.deactivate(2)
    assert owners.state(2) == (1, 2, 0xFFFF)
    assert not owners.is_active(2)


def test_a_deactivated_host_owns_nothing() -> None:
    owners, table = make()
    table.put(key4(1), 1)
    owners.deactivate(1)
    assert table.get(key4(1)) is None
    owners.activate(1)
    assert table.get(key4(1)) is not None


def test_lingering_and_unowned_entries_expire_and_live_ones_stay() -> None:
    _, table = make()
    table.put(key4(1), 1)
    table.put(key4(2), 1, flags=LINGER)
    assert table.mark_unowned(key4(3), 0)
    assert table.sweep(64, 999, linger_ms=60000, unowned_ms=1000) == 0
    assert table.sweep(64, 1000, linger_ms=60000, unowned_ms=1000) == 1
    assert table.sweep(64, 60000, linger_ms=60000, unowned_ms=1000) == 1
    assert table.find_burst(key4(1) + key4(2) + key4(3)).tolist() == [1, ABSENT, ABSENT]


def test_a_table_in_given_memory_is_adopted_with_its_entries() -> None:
    memory = bytearray(SessionTable.required_bytes(4, 64))
    owners, table = make(4, 64, memory=memory)
    table.put(key4(1), 1, opened_at=5)
    del table
    gc.collect()
    adopted = SessionTable(4, 64, owners, memory=memory, adopt=True)
    entry = adopted.get(key4(1))
    assert entry is not None
    assert (entry.owner, entry.opened_at, len(adopted)) == (1, 0, 1)
    fresh = SessionTable(4, 64, owners, memory=memory)
    assert (fresh.get(key4(1)), len(fresh)) == (None, 0)
    with pytest.raises(OSError, match="clean"):
        SessionTable(4, 64, owners, memory=bytearray(len(memory)), adopt=True)


def test_readers_in_other_threads_find_what_never_left() -> None:
    _, table = make(4, 64)
    steady = [key4(i) for i in range(100)]
    for key in steady:
        table.put(key, 1)
    found: list[list[int]] = []
    readers = [
        threading.Thread(
            target=lambda: found.extend(
                table.find_burst(b"".join(steady)).tolist() for _ in range(200)
            )
        )
        for _ in range(2)
    ]
    for reader in readers:
        reader.start()
    for i in range(2000):
        table.put(key4(1000 + i), 2)
        table.remove(key4(1000 + i))
    for reader in readers:
        reader.join()
    assert found == [[1] * 100] * 400


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda o, t: t.put(bytes(7), 1), "key is 7 bytes, expected 8"),
        (lambda o, t: t.get(bytes(24)), "key is 24 bytes, expected 8"),
        (lambda o, t: t.remove(b""), "key is 0 bytes, expected 8"),
        (lambda o, t: t.put(bytes(8), 65001), "host is 65001, expected 0..65000"),
        (lambda o, t: t.put(bytes(8), ABSENT), "host is 65534"),
        (lambda o, t: t.put(bytes(8), 1, flags=0x80), "flags is 128"),
        (lambda o, t: t.put(bytes(8), 1, position=-1), "-1 is negative"),
        (lambda o, t: t.find_burst(bytes(9)), "multiple of 8"),
        (lambda o, t: t.sweep(0, 0, linger_ms=1, unowned_ms=1), "buckets is 0"),
        (lambda o, t: o.void(-1), "host is -1"),
        (lambda o, t: o.activate(UNOWNED), "host is 65535"),
        (lambda o, t: o.set_template(1, 65535), "template index is 65535"),
        (lambda o, t: OwnerStates(bytearray(8)), "expected 524288"),
        (lambda o, t: SessionTable(5, 64, o), "expected family 4 or 6"),
        (lambda o, t: SessionTable(4, 65, o), "even number"),
        (lambda o, t: SessionTable(4, 1 << 27, o), "even number"),
        (lambda o, t: SessionTable(4, 64, o, memory=bytearray(64)), "at least 4160"),
        (lambda o, t: SessionTable(4, 64, o, hash_key=b"short"), "hash key is 5 bytes"),
        (lambda o, t: SessionTable(4, 64, o, adopt=True), "needs memory="),
    ],
)
def test_bad_arguments_are_value_errors_that_name_what_is_expected(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call(*make())


def test_read_only_memory_is_refused() -> None:
    owners, _ = make()
    with pytest.raises((BufferError, ValueError)):
        SessionTable(4, 64, owners, memory=bytes(SessionTable.required_bytes(4, 64)))
