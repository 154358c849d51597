#!/usr/bin/env bash
# Installs everything, the compiled operators of mmcv and mmdet included, and runs the whole test suite.
# Arguments go to pytest: bash tools/run_tests.sh -k hst
set -euo pipefail
# shellcheck source=tools/_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
use_env runtime det ops test
cd "$ROOT"
exec "$PY" -m pytest "$@"
