#!/usr/bin/env bash
# From a bare machine (Python 3.11 or 3.12) to a trained model: makes or reuses the environment described in
# tools/_env.sh, then runs tools/quickstart.py with the arguments given here.
set -euo pipefail
# shellcheck source=tools/_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
use_env runtime
exec "$PY" "$ROOT/tools/quickstart.py" "$@"
