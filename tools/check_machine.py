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
    if sys.version_info < (3, 11):
        yield "Python 3.11 or newer (this is {}.{}; choose another with".format(
            *sys.version_info[:2]
        ) + " `make PYTHON=python3.12 ...`)"
    if importlib.util.find_spec("ensurepip") is None:
        yield "Python's venv module (on Debian and Ubuntu: python3-venv)"
    header = os.path.join(sysconfig.get_path("include"), "Python.h")
    if not os.path.exists(header):
        yield "Python's C headers (on Debian and Ubuntu: python3-dev)"
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    if shutil.which(compiler.split()[0]) is None:
        yield "a C compiler, gcc or clang ({} was not found;".format(
            compiler.split()[0]
        ) + " on Debian and Ubuntu: gcc libc6-dev)"


if __name__ == "__main__":
    found = list(missing())
    for sentence in found:
        print("cbp needs " + sentence, file=sys.stderr)
    sys.exit(1 if found else 0)
