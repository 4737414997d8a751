"""Processes of tests, of which a crash or a kill takes no test along.

`run_python` runs code in a fresh interpreter, `fork` goes on in a copy of this one.
"""

import os
import subprocess
import sys
import traceback
from pathlib import Path


def fork(work):
    """A fork that calls work(write), where write is the end of a pipe: its pid, and
    the end to read from. Its exit status is 0 if nothing was raised."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(read)
            work(write)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write)
    return pid, read


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
