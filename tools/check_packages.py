"""Checks the sdist and the wheel in a folder: everything is in them, nothing else is.

python tools/check_packages.py dist
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

# Folders and files that a checkout has and a package does not need.
NOT_SHIPPED = {".gitignore"}
WHEEL_LIMIT = 1_065_000  # bytes


def tracked_files():
    """The files under version control, or None outside of it."""
    git = subprocess.run(["git", "ls-files"], capture_output=True, text=True)
    return set(git.stdout.split("\n")) - {""} if git.returncode == 0 else None


def check_sdist(path):
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    made = {n for n in names if n.endswith((".so", ".pyd", ".pyc")) or "build/" in n}
    assert not made, f"built files in the sdist: {sorted(made)}"
    tracked = tracked_files()
    if tracked:
        lacking = tracked - names - NOT_SHIPPED
        assert not lacking, f"not in the sdist: {sorted(lacking)}"
    return names


def check_wheel(path, sdist_names):
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    # What a user needs: Python files, stubs, the mark that there are stubs.
    expected = {
        n
        for n in sdist_names
        if n.startswith("cbp/") and n.endswith((".py", ".pyi", "py.typed"))
    }
    lacking = expected - names
    assert not lacking, f"not in the wheel: {sorted(lacking)}"
    extensions = {n for n in names if n.endswith((".so", ".pyd"))}
    modules = [n for n in sdist_names if n.startswith("cbp/") and n.endswith(".pyx")]
    # And what the modules share, which has no source.
    assert len(extensions) == len(modules) + 1, (extensions, modules)
    others = {n for n in names - expected - extensions if ".dist-info/" not in n}
    assert not others, f"should not be in the wheel: {sorted(others)}"
    if "-abi3-" in path.name:
        assert path.name.split("-")[2] == "cp311", path.name
        assert all(".abi3." in n or n.endswith(".pyd") for n in extensions), extensions
    size = path.stat().st_size
    assert size <= WHEEL_LIMIT, f"{path.name} has {size} bytes"
    print(f"{path.name}: {size / 1000:.0f} kB")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (sdist,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    check_wheel(wheel, check_sdist(sdist))
