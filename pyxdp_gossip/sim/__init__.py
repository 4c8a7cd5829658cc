# SPDX-License-Identifier: BSD-2-Clause
"""A POP in virtual time: real gossip cores and tables; simulated network, kernels and router."""
