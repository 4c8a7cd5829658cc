# SPDX-License-Identifier: BSD-2-Clause
"""Runs the C tests of what handles frames, by both compilers, under the sanitizers."""

import pytest

from tests import c_programs

TABLE = ("session_table.c", "session_room.c", "session_burst.c")
FORWARD = (*TABLE, "forward.c", "flow_hashes.c")
CODEC = (*TABLE, "record_codec.c", "record_apply.c", "merge.c", "ledger.c")
PROGRAMS = {
    "test_template": (),
    "test_hash": (),
    "test_flow_hashes": (*TABLE, "flow_hashes.c"),
    "test_checksum": (),
    "test_quic_lb": (),
    "test_forward": FORWARD,
    "test_too_big": FORWARD,
    "test_fragmenting": FORWARD,
    "test_forward_mutated": (*TABLE, "flow_hashes.c"),
    "test_forward_kinds": (*TABLE, "flow_hashes.c"),
    "test_xsk_loop": (*FORWARD, "xsk_loop.c", "xsk_loop_run.c"),
    "test_xsk_chain": (*FORWARD, "xsk_loop.c", "xsk_loop_run.c"),
    "test_forged_descriptors": ("xsk_loop.c", "xsk_loop_run.c"),
    "test_explain": (*FORWARD, "explain.c"),
    "test_receive": (*FORWARD, "explain.c"),
    "test_reconcile": (*CODEC, "reconcile.c"),
    "test_event_ring": ("event_ring.c",),
}


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_it_is_right_and_clean_under_address_and_undefined_sanitizers(
    name: str, compiler: str
) -> None:
    program = c_programs.build(name, compiler, PROGRAMS[name])
    assert c_programs.run(program) == "ok\n"
