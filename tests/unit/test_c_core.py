# SPDX-License-Identifier: BSD-2-Clause
"""Builds the C tests of the table and the codec under sanitizers, and runs them."""

import platform
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = ("session_table.c", "session_room.c", "session_burst.c")
CODEC = (*TABLE, "record_codec.c", "record_apply.c", "merge.c", "ledger.c")
ADDRESS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
FULL_SPEED = ("-O2", "-pthread")
THREAD = ("-fsanitize=thread", "-pthread")
FLAGS = ("-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-fno-strict-aliasing")


def build_and_run(
    test: str, sources: tuple[str, ...], sanitizer: tuple[str, ...], out: Path, *arguments: str
) -> str:
    """Compile a C test with clang (`make setup` installs its runtimes); what it printed."""
    program = out / test
    command = ["clang", *FLAGS, *sanitizer, "-I", str(ROOT / "csrc")]
    command += [str(ROOT / "csrc" / source) for source in sources]
    command += [str(ROOT / "tests" / "c" / f"{test}.c"), "-o", str(program)]
    subprocess.run(command, check=True)
    finished = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_the_table_is_right_and_clean_under_address_and_undefined_sanitizers(
    tmp_path: Path,
) -> None:
    assert build_and_run("test_table", TABLE, ADDRESS, tmp_path) == "ok\n"


def test_readers_beside_the_writer_miss_nothing_and_see_no_wrong_owner(tmp_path: Path) -> None:
    assert build_and_run("test_table_threads", TABLE, THREAD, tmp_path) == "ok\n"


def test_readers_miss_nothing_at_full_speed_where_torn_pairs_and_moves_do_happen(
    tmp_path: Path,
) -> None:
    # Without the check in the meta word, or without the second look after a move, this fails
    # each time; the sanitizer's build is too slow to meet either.
    output = build_and_run("test_table_threads", TABLE, FULL_SPEED, tmp_path, "300000")
    assert output == "ok\n"


def test_the_codec_is_clean_under_address_and_undefined_sanitizers(tmp_path: Path) -> None:
    assert build_and_run("test_codec", CODEC, ADDRESS, tmp_path) == "ok\n"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names the x86-64 instruction")
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize(
    ("source", "function", "lines"),
    [
        ("session_table.c", "xg_session_table_prefetch", 3),  # a bucket of IPv6, the cold parts
        *(
            ("session_burst.c", function, 4)  # two for first buckets, two for those to come
            for function in (
                *("plan6_any", "plan6_avx2", "plan6_avx512"),
                *("probe6_any", "probe6_avx2", "probe6_pairs", "probe6_gather"),
            )
        ),
    ],
)
def test_the_compiler_keeps_the_prefetches(
    source: str, function: str, lines: int, compiler: str
) -> None:
    command = [compiler, "-std=gnu11", "-O2", "-S", "-o", "-", str(ROOT / "csrc" / source)]
    assembly = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    body = assembly.partition(f"\n{function}:")[2].partition(f"\t.size\t{function}")[0]
    assert body.count("\tprefetch") >= lines


KINDS = 16  # of outer headers, each with a loop of its own


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names the x86-64 instruction")
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_compiler_keeps_what_the_forwarder_calls_for(compiler: str) -> None:
    source = ROOT / "csrc" / "forward.c"
    command = [compiler, "-std=gnu11", "-O2", f"-I{source.parent}", "-S", "-o", "-", str(source)]
    assembly = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # two lines of frames to be written, in each loop, and two of frames to be parsed
    assert assembly.count("\tprefetch") >= KINDS * 2 + 2


@pytest.mark.parametrize("header", ["siphash.h", "session_lookup.h"])
def test_the_headers_shared_with_bpf_compile_for_bpf(header: str, tmp_path: Path) -> None:
    source = tmp_path / "shared.bpf.c"
    source.write_text(
        f'#include "{header}"\n'
        "__u64 hash(const __u64 *key, const __u64 *words);\n"
        "__u64 hash(const __u64 *key, const __u64 *words)\n"
        "{ return xg_siphash13_3(key, words) ^ xg_siphash13_1(key, words[0]); }\n"
    )
    command = ["clang", "-target", "bpf", "-mcpu=v3", "-O2", "-Wall", "-Wextra", "-Werror"]
    command += [
        "-idirafter",
        f"/usr/include/{platform.machine()}-linux-gnu",
        "-I",
        str(ROOT / "csrc"),
    ]
    subprocess.run([*command, "-c", str(source), "-o", str(tmp_path / "shared.o")], check=True)
