# SPDX-License-Identifier: BSD-2-Clause
"""Micro-benchmarks of single calls: `pytest bench/micro --benchmark-json=FILE`."""
