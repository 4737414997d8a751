"""Another build of cbp: a revision, built in place in a folder of its own.

Used by tools/same_bits.py and benchmarks/builds.py, which compare two builds.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILDS = ROOT / "build" / "revisions"


def program(given):
    """Python and environment variables with which one of two builds is imported.

    Parameters
    ----------
    given : str
        A Python program that has the build installed; or a revision of this repository,
        which is cloned and built at the first call, with this Python.

    Returns
    -------
    python : str
    variables : dict
    """
    if Path(given).is_file() and os.access(given, os.X_OK):
        return given, dict(os.environ)
    commit = _run("git", "rev-parse", "--verify", f"{given}^{{commit}}").strip()
    folder = BUILDS / commit[:12]
    if not (folder / "built").exists():
        print(f"# building {given} in {folder.relative_to(ROOT)}", file=sys.stderr)
        if not folder.exists():
            _run("git", "clone", "--quiet", "--shared", str(ROOT), str(folder))
        _run("git", "checkout", "--quiet", commit, where=folder)
        command = (sys.executable, "setup.py", "-q", "build_ext", "--inplace")
        _run(*command, where=folder)
        (folder / "built").touch()
    return sys.executable, {**os.environ, "PYTHONPATH": str(folder)}


def _run(*command, where=ROOT):
    """What a command prints, or an exit that shows its error."""
    done = subprocess.run(command, cwd=where, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed in {where}:\n{done.stderr}")
    return done.stdout
