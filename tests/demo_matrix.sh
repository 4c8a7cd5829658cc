#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# The demo in all its forms, one after the other; ends at the first that breaks a connection.
set -euo pipefail
cd "$(dirname "$0")/.."
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
run() {
	echo "== demo $*"
	.venv/bin/pyxdp-gossip demo "$@" --json "$results/demo.json"
}
run --seed 1
run --seed 2
run --seed 3
run --seed 4 --hosts 6
run --seed 5 --proxy haproxy
run --seed 6 --ipv6
run --seed 7 --proxy haproxy --ipv6 --hosts 6
run --seed 8 --plane xdp
echo "all forms of the demo kept every connection"
