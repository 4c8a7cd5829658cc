# SPDX-License-Identifier: BSD-2-Clause
"""No input makes C read or write out of bounds: the properties again, with sanitizers in Cython.

Each frame lies in a block of exactly its size, so that one byte more is seen.
"""

import re
import shutil
from pathlib import Path

from tests import sanitized_native

# Each file, and a property of it that must have been tried.
CHECKED = {
    "tests/unit/test_any_frame.py": "test_a_golden_frame_with_one_byte_changed_and_cut_anywhere",
    "tests/unit/test_fragmenting.py": "test_fragments_of_fragments_put_together_the_packet",
    "tests/unit/test_golden_formats.py": "test_c_touches_no_byte_beyond_header_and_frame[gue-IPv4]",
    "tests/unit/test_golden_forwarder.py": "",
    "tests/unit/test_quic_lb.py": "test_any_datagram_names_whom_the_model_says",
    "tests/unit/test_templates.py": "",
}
LEAST_TESTS = 140  # of these files together
TRUNCATED = "tests/unit/test_any_frame.py::test_every_truncation_of_every_golden_shape"


def test_the_properties_hold_without_a_report() -> None:
    done = sanitized_native.run_pytest(sanitized_native.build(), *CHECKED)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "Sanitizer" not in done.stdout + done.stderr
    assert "runtime error" not in done.stdout + done.stderr
    passed = re.findall(r"^(\S+)::(.+) PASSED", done.stdout, re.MULTILINE)
    assert {file for file, _ in passed} == set(CHECKED)
    assert {(file, name) for file, name in CHECKED.items() if name} <= set(passed)
    assert len(passed) >= LEAST_TESTS
    assert f"{len(passed)} passed in " in done.stdout.splitlines()[-1], "none failed, none skipped"


def test_a_parser_that_reads_one_byte_too_many_is_seen(tmp_path: Path) -> None:
    sources = tmp_path / "csrc"
    shutil.copytree(sanitized_native.CSRC, sources)
    parser, right = sources / "packet_parse.h", "(const void *)(eth + 1) > end"
    text = parser.read_text()
    assert text.count(right) == 1
    parser.write_text(text.replace(right, f"{right} + 1"))
    wrong = sanitized_native.rebuilt_with(sources / "forward.c", sources, tmp_path)
    done = sanitized_native.run_pytest(wrong, TRUNCATED)
    assert done.returncode != 0
    assert "ERROR: AddressSanitizer: heap-buffer-overflow" in done.stdout + done.stderr
