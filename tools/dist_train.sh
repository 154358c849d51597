#!/usr/bin/env bash
# Train on several GPUs (or CPU processes):
#   bash tools/dist_train.sh CONFIG GPUS [--max-restarts N] [options of tools/train.py]
# --max-restarts N (or MAX_RESTARTS=N), on one machine: when a process dies, all start again, up to N
# times, and go on from the newest checkpoint.
# Several machines: NNODES, NODE_RANK, MASTER_ADDR and PORT as usual.
set -euo pipefail
exec bash "$(dirname "$0")/_launch.sh" train.py "$@"
