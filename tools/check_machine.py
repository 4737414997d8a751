"""Checks that this machine can build cbp, and says in one sentence what is missing.

Runs before anything is installed, on whatever Python is called python3: no imports
beyond the standard library, no syntax newer than 3.6.
"""

import importlib.util
import os
import shutil
import sys
import sysconfig


def missing():
    """Yield one sentence for every thing that is missing."""
    if sys.version_info < (3, 11):  # noqa: UP036 - that is what is checked here
        version = ".".join(str(number) for number in sys.version_info[:2])
        yield f"Python 3.11 or newer, not {version}: make PYTHON=python3.12 ..."
    if importlib.util.find_spec("ensurepip") is None:
        yield "Python's venv module (Debian, Ubuntu: apt install python3-venv)"
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        yield "Python's C headers (Debian, Ubuntu: apt install python3-dev)"
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    if shutil.which(compiler.split()[0]) is None:
        yield "a C compiler, gcc or clang (Debian, Ubuntu: apt install gcc libc6-dev)"


if __name__ == "__main__":
    found = list(missing())
    for sentence in found:
        print("cbp needs " + sentence, file=sys.stderr)
    sys.exit(1 if found else 0)
