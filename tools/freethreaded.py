"""Builds a CPython without the GIL from Debian's source package.

    python tools/freethreaded.py build/freethreaded

makes build/freethreaded/bin/python3t, for `make test-freethreaded`, in six minutes of
CPU time. Debian has no package of such a Python. The source comes from
the mirror that apt is set up for, signed as everything is there, under a list of
sources of its own: the machine's lists stay as they are, and nothing is installed
outside that folder. Any user may do it. Standard library only.

Needs Debian, or what descends from it and has the suite, and, for what the standard
library is to contain:

    apt install gcc make dpkg-dev libssl-dev libffi-dev zlib1g-dev libbz2-dev \\
        liblzma-dev libsqlite3-dev

SUITE and PACKAGE choose another source (default: trixie, python3.13).
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

SUITE = os.environ.get("SUITE", "trixie")
PACKAGE = os.environ.get("PACKAGE", "python3.13")
NEEDED = ["gcc", "make", "apt-get"]
HEADERS = {
    "openssl/ssl.h": "libssl-dev",
    "ffi.h": "libffi-dev",
    "zlib.h": "zlib1g-dev",
    "bzlib.h": "libbz2-dev",
    "lzma.h": "liblzma-dev",
    "sqlite3.h": "libsqlite3-dev",
}
# Modules of the standard library that tests or pip need.
MODULES = "ssl, ctypes, zlib, bz2, lzma, sqlite3"


def mirror():
    """The lines 'URIs' and 'Signed-By' of the mirror of this machine's own suite.

    Returns
    -------
    tuple of (str, str or None)

    Raises
    ------
    SystemExit
        If apt has no mirror of Debian.
    """
    with open("/etc/os-release") as file:
        codename = re.search(r"^VERSION_CODENAME=(\S+)", file.read(), re.M)
    suite = codename[1] if codename else "stable"
    folder = Path("/etc/apt")
    for path in sorted(folder.glob("sources.list.d/*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text()):
            fields = dict(re.findall(r"^([\w-]+):[ \t]*(.+)$", stanza, re.M))
            if suite in fields.get("Suites", "").split():
                return fields["URIs"].split()[0], fields.get("Signed-By")
    for path in [
        folder / "sources.list",
        *sorted(folder.glob("sources.list.d/*.list")),
    ]:
        if not path.exists():
            continue
        for line in path.read_text().splitlines():
            found = re.match(r"deb\s+(\[[^]]*\]\s+)?(\S+)\s+(\S+)", line)
            if found and found[3] == suite:
                signed = re.search(r"signed-by=([^\s\]]+)", found[1] or "")
                return found[2], signed and signed[1]
    sys.exit(f"apt on this machine has no source for its own suite, {suite}")


def run(*command, log=None, **options):
    """Run a command; the end of its log, and exit, where it fails."""
    print("+", *command, flush=True)
    with open(log or os.devnull, "w") as file:
        output = {"stdout": file, "stderr": file} if log else {}
        done = subprocess.run([str(part) for part in command], **output, **options)
    if done.returncode:
        if log:
            print(*Path(log).read_text(errors="replace").splitlines()[-20:], sep="\n")
        sys.exit(f"{command[0]} failed; {log or 'see above'}")


def fetch(folder):
    """The unpacked source, in a folder of its own."""
    uri, signed = mirror()
    state = folder / "apt"
    for name in ("lists/partial", "cache/archives/partial"):
        (state / name).mkdir(parents=True, exist_ok=True)
    lines = ["Types: deb-src", f"URIs: {uri}", f"Suites: {SUITE}", "Components: main"]
    lines += [f"Signed-By: {signed}"] if signed else []
    (state / "source.sources").write_text("\n".join(lines) + "\n")
    options = [
        f"Dir::Etc::sourcelist={state / 'source.sources'}",
        "Dir::Etc::sourceparts=-",
        f"Dir::State::lists={state / 'lists'}",
        f"Dir::Cache={state / 'cache'}",
        "APT::Sandbox::User=root",
    ]
    apt = ["apt-get", "-q", *[f"-o{option}" for option in options]]
    run(*apt, "update", log=folder / "update.log")
    run(
        *[*apt, "source", "--download-only", PACKAGE],
        cwd=state,
        log=folder / "download.log",
    )
    archives = sorted(state.glob(f"{PACKAGE}_*.orig.tar.*[!c]"))
    if not archives:
        sys.exit(f"no source of {PACKAGE} came from {SUITE}; see {folder}/*.log")
    source = folder / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    run("tar", "-xf", archives[-1], "-C", source, "--strip-components=1")
    return source


def missing():
    """What this machine lacks: names of programs, and of Debian's packages."""
    found = [name for name in NEEDED if shutil.which(name) is None]
    if "gcc" in found:
        return found
    for header, package in HEADERS.items():
        test = subprocess.run(
            ["gcc", "-E", "-"],
            input=f"#include <{header}>\n",
            text=True,
            capture_output=True,
        )
        if test.returncode:
            found.append(package)
    return found


def main(folder):
    folder = Path(folder).resolve()
    python = folder / "bin" / "python3t"
    if python.exists():
        return
    if lacks := missing():
        sys.exit(f"needs {', '.join(lacks)} (apt install, on Debian)")
    folder.mkdir(parents=True, exist_ok=True)
    source = fetch(folder)
    configure = ["./configure", "--disable-gil", f"--prefix={folder}"]
    run(*configure, cwd=source, log=folder / "configure.log")
    jobs = f"-j{len(os.sched_getaffinity(0))}"
    run("nice", "make", jobs, cwd=source, log=folder / "make.log")
    run("nice", "make", "install", cwd=source, log=folder / "install.log")
    built = folder / "bin" / f"{PACKAGE}t"
    run(built, "-c", f"import sys, {MODULES}; assert not sys._is_gil_enabled()")
    # The last step: who finds it finds all.
    python.symlink_to(built.name)
    shutil.rmtree(source)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
