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

# --max-restarts is torchrun's; all other arguments are the script's.
restarts=${MAX_RESTARTS:-0}
arguments=()
for ((i = 4; i <= $#; i++)); do
    case "${!i}" in
        --max-restarts)
            i=$((i + 1))
            restarts=${!i:-}
            ;;
        --max-restarts=*) restarts=${!i#*=} ;;
        *) arguments+=("${!i}") ;;
    esac
done
if ! [[ "$restarts" =~ ^[0-9]+$ ]]; then
    echo "--max-restarts (or MAX_RESTARTS) '$restarts' must be a number of restarts, 0 or more" >&2
    exit 2
fi
if [ "$restarts" -gt 0 ] && [ "$nnodes" -gt 1 ]; then
    # torch tells only the machine of the dead process that this is a restart.
    echo "--max-restarts is for one machine: with NNODES=$nnodes start all again, with --resume" >&2
    exit 2
fi

# Without PORT a free one, so that two jobs on one machine do not collide.
port=${PORT:-0}
bind='import socket, sys; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("", int(sys.argv[1]))); print(s.getsockname()[1])'
if [ "${NODE_RANK:-0}" -eq 0 ] && ! port=$("$python" -c "$bind" "$port" 2>/dev/null); then
    echo "PORT=${PORT:-0} is in use or no port: give a free one, or none on a single machine" >&2
    exit 2
fi
if [ "$restarts" -eq 0 ]; then
    address=${MASTER_ADDR:-127.0.0.1}
    meeting=(--node_rank="${NODE_RANK:-0}" --master_addr="$address" --master_port="$port")
else
    # On torch 2.12 the processes of a restart find the addresses of the dead ones in the store of a
    # static meeting, and in that of a dynamic one too where it is shared with them.
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    meeting=(--rdzv_backend=c10d --rdzv_endpoint="127.0.0.1:$port" --local_addr=127.0.0.1)
fi
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m torch.distributed.run \
    --nnodes="$nnodes" \
    --nproc_per_node="$3" \
    --max_restarts="$restarts" \
    "${meeting[@]}" \
    "$here/$1" "$2" --launcher pytorch ${arguments[@]+"${arguments[@]}"}
