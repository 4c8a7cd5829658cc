# SPDX-License-Identifier: BSD-2-Clause
"""`python -m pyxdp_gossip` is the command line."""

from pyxdp_gossip.cli import main

if __name__ == "__main__":
    main()
