# SPDX-License-Identifier: BSD-2-Clause
"""No input makes C read or write out of bounds: the properties again, with sanitizers in Cython.

Each frame lies in a block of exactly its size, so that one byte more is seen.
"""

import shutil
from pathlib import Path

from tests import sanitized_native

CHECKED = (
    "tests/unit/test_any_frame.py",
    "tests/unit/test_golden_formats.py",
    "tests/unit/test_golden_forwarder.py",
    "tests/unit/test_fragmenting.py",
    "tests/unit/test_quic_lb.py",
    "tests/unit/test_templates.py",
)


def test_the_properties_hold_without_a_report() -> None:
    done = sanitized_native.run_pytest(sanitized_native.build(), *CHECKED)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_a_parser_that_reads_one_byte_too_many_is_seen(tmp_path: Path) -> None:
    sources = tmp_path / "csrc"
    shutil.copytree(sanitized_native.CSRC, sources)
    parser, right = sources / "packet_parse.h", "(const void *)(eth + 1) > end"
    text = parser.read_text()
    assert text.count(right) == 1
    parser.write_text(text.replace(right, f"{right} + 1"))
    wrong = sanitized_native.rebuilt_with(sources / "forward.c", sources, tmp_path)
    done = sanitized_native.run_pytest(wrong, "tests/unit/test_any_frame.py")
    assert done.returncode != 0
    assert "ERROR: AddressSanitizer: heap-buffer-overflow" in done.stdout + done.stderr
