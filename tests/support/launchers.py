"""The launchers of tools/, started as a user would start them."""

import os
import subprocess
import sys

from tests.support.paths import ROOT

TOOLS = ROOT / 'tools'
_OF_THE_SHELL = ('LOCAL_RANK', 'PORT', 'NNODES', 'NODE_RANK', 'MASTER_ADDR', 'MAX_RESTARTS')


def start(script: str, *arguments: object, **variables: str) -> subprocess.Popen:
    """Start a script of tools/ with arguments and environment variables; see `finish`."""
    environment = {k: v for k, v in os.environ.items() if k not in _OF_THE_SHELL}
    environment.update({'PYTHON': sys.executable, 'OMP_NUM_THREADS': '1', **variables})
    return subprocess.Popen(
        ['bash', str(TOOLS / script), *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    """Wait for a script: exit status, stdout, stderr."""
    out, err = process.communicate(timeout=400)
    return process.returncode, out, err
