# SPDX-License-Identifier: BSD-2-Clause
"""Runs the C tests of what handles frames, by both compilers, under the sanitizers."""

import pytest

from tests import c_programs

TABLE = ("session_table.c", "session_room.c", "session_burst.c")
CODEC = (*TABLE, "record_codec.c", "record_apply.c", "merge.c", "ledger.c")
PROGRAMS = {
    "test_template": (),
    "test_checksum": (),
    "test_quic_lb": (),
    "test_forward": (*TABLE, "forward.c"),
    "test_too_big": (*TABLE, "forward.c"),
    "test_fragmenting": (*TABLE, "forward.c"),
    "test_forward_mutated": (*TABLE, "forward.c"),
    "test_xsk_loop": (*TABLE, "forward.c", "xsk_loop.c", "xsk_loop_run.c"),
    "test_xsk_chain": (*TABLE, "forward.c", "xsk_loop.c", "xsk_loop_run.c"),
    "test_forged_descriptors": ("xsk_loop.c", "xsk_loop_run.c"),
    "test_explain": (*TABLE, "forward.c", "explain.c"),
    "test_receive": (*TABLE, "forward.c", "explain.c"),
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
