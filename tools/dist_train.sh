#!/usr/bin/env bash
# Train on several GPUs (or CPU processes):
#   bash tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# Several machines: NNODES, NODE_RANK, MASTER_ADDR and PORT as usual.
set -euo pipefail
exec bash "$(dirname "$0")/_launch.sh" train.py "$@"
