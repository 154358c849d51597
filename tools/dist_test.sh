#!/usr/bin/env bash
# Test on several GPUs (or CPU processes):
#   bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]
# Several machines: NNODES, NODE_RANK, MASTER_ADDR and PORT as usual.
set -euo pipefail
if [ "$#" -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT GPUS [options of tools/test.py]" >&2
    exit 2
fi
exec bash "$(dirname "$0")/_launch.sh" test.py "$1" "$3" "$2" "${@:4}"
