# SPDX-License-Identifier: BSD-2-Clause
"""Benchmarks: one module each, run by `python -m bench NAME`."""
