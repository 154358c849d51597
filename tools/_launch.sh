#!/usr/bin/env bash
# Start torchrun for dist_train.sh and dist_test.sh: _launch.sh SCRIPT CONFIG GPUS [arguments]
set -euo pipefail
if [ "$#" -lt 3 ] || ! [[ "$3" =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: dist_${1%.py}.sh CONFIG ... GPUS [arguments]; GPUS must be a positive number" >&2
    exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python}
nnodes=${NNODES:-1}
if [ "$nnodes" -gt 1 ] && { [ -z "${PORT:-}" ] || [ -z "${MASTER_ADDR:-}" ]; }; then
    echo "NNODES=$nnodes needs the same MASTER_ADDR and PORT on every machine" >&2
    exit 2
fi
# A free port, so that two jobs on one machine do not collide.
free_port='import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
port=${PORT:-$("$python" -c "$free_port")}
# Without this a restart of crashed workers (--max-restarts) cannot connect again on torch 2.12.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m torch.distributed.run \
    --nnodes="$nnodes" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --nproc_per_node="$3" \
    --master_port="$port" \
    "$here/$1" "$2" --launcher pytorch "${@:4}"
