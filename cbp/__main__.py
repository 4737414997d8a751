"""`python -m cbp` prints what a bug report needs. It measures and changes nothing."""

import argparse
import os
import platform
import sys
import sysconfig
from importlib import metadata

import joblib

import cbp
from cbp import _kernels
from cbp._parameters import n_threads

PACKAGES = ["numpy", "scipy", "scikit-learn", "joblib", "matplotlib"]


def _python():
    """Implementation and version, and what is the case with the GIL."""
    gil = "GIL on" if getattr(sys, "_is_gil_enabled", lambda: True)() else "GIL off"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        gil = "free-threaded build, " + gil
    return f"{platform.python_implementation()} {platform.python_version()}, {gil}"


def _libc():
    """The C library; Python names it on Linux alone."""
    name = " ".join(filter(None, platform.libc_ver()))
    built_for = sysconfig.get_config_var("HOST_GNU_TYPE") or ""
    return name or ("musl" if "musl" in built_for else "unknown")


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def report():
    """Yield pairs of a name and what is the case on this machine."""
    yield "cbp", cbp.__version__
    asked = os.environ.get("CBP_ISA")
    chosen = f"CBP_ISA={asked}" if asked else "chosen at import"
    yield "kernels", f"{_kernels.isa()}, {chosen}"
    yield "CPU can run", ", ".join(_kernels.tiers())
    yield "cores", f"{joblib.cpu_count()} for this process, by joblib"
    yield "n_jobs=-1", f"{n_threads(-1)} threads"
    yield "Python", _python()
    yield "its compiler", platform.python_compiler() or "unknown"
    yield "platform", platform.platform()
    yield "machine", platform.machine() or "unknown"
    yield "C library", _libc()
    for package in PACKAGES:
        yield package, _version(package)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m cbp",
        description="Prints versions, kernels and threads, to paste into a bug report.",
    )
    parser.parse_args(arguments)
    for name, value in report():
        print(f"{name + ':':<14}{value}")


if __name__ == "__main__":
    main()
