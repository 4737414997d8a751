"""Runs Python code in a fresh interpreter: for tests of imports, crashes and hangs."""

import os
import subprocess
import sys
from pathlib import Path


def run_python(code, *arguments, timeout=600, **environment):
    """What the code printed; it may import what the tests import.

    Raises
    ------
    AssertionError
        The code failed or crashed; the message is what it wrote to stderr.
    subprocess.TimeoutExpired
        It took longer than `timeout` seconds: it hangs.
    """
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr}"
    return done.stdout
