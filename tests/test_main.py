"""`python -m cbp`, which bug reports ask for."""

import os
import platform
import subprocess
import sys
import sysconfig
from importlib import metadata

import joblib
import pytest
import sklearn
from child import run_python

import cbp
from cbp import __main__, _kernels
from cbp._parameters import n_threads


def run(cwd, **environment):
    """What `python -m cbp` prints in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-m", "cbp"],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def parsed(output):
    lines = output.splitlines()
    pairs = [line.split(":", 1) for line in lines]
    assert len(dict(pairs)) == len(lines)
    return {name: value.strip() for name, value in pairs}


def test_it_says_what_a_bug_report_needs(tmp_path):
    output = run(tmp_path)
    assert output.isascii()
    said = parsed(output)
    assert said["cbp"] == cbp.__version__
    assert said["kernels"].split(",")[0] == _kernels.isa()
    assert said["CPU can run"] == ", ".join(_kernels.tiers())
    assert said["cores"].split()[0] == str(joblib.cpu_count())
    assert said["n_jobs=-1"] == f"{n_threads(-1)} threads"
    assert platform.python_version() in said["Python"]
    assert said["machine"] == platform.machine()
    assert said["scikit-learn"] == sklearn.__version__
    for package in ["numpy", "scipy", "joblib"]:
        assert said[package] == metadata.version(package)


def test_it_says_which_kernels_were_asked_for(tmp_path):
    said = parsed(run(tmp_path, CBP_ISA="scalar"))
    assert said["kernels"] == "scalar, CBP_ISA=scalar"


@pytest.mark.parametrize("argument", ["--no-such-option", "word"])
def test_unknown_arguments_are_refused(capsys, argument):
    with pytest.raises(SystemExit) as stopped:
        __main__.main([argument])
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"unrecognized arguments: {argument}" in said.err


def test_what_is_missing_is_said_and_fails_nothing(monkeypatch, capsys):
    def missing(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", missing)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(platform, "python_compiler", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "")
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: None)
    monkeypatch.delattr(sys, "_is_gil_enabled", raising=False)
    __main__.main([])
    said = parsed(capsys.readouterr().out)
    assert said["matplotlib"] == said["numpy"] == "not installed"
    assert said["C library"] == said["machine"] == said["its compiler"] == "unknown"
    assert said["Python"].endswith(", GIL on")


@pytest.mark.parametrize(("enabled", "gil"), [(True, "GIL on"), (False, "GIL off")])
def test_it_says_whether_a_free_threaded_python_has_the_gil_on(
    monkeypatch, enabled, gil
):
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: 1)
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: enabled, raising=False)
    assert __main__._python().endswith(f", free-threaded build, {gil}")


def test_a_libc_that_python_cannot_name_is_told_by_the_build(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: "x86_64-alpine-musl")
    assert __main__._libc() == "musl"


def test_modules_for_users_are_imported_on_first_use():
    run_python("""
import sys
import cbp
assert "cbp.datasets" not in sys.modules and "cbp.plotting" not in sys.modules
assert {"datasets", "plotting", "BPClassifier"} <= set(dir(cbp))
assert cbp.datasets.make_two_spheres and cbp.plotting.GradientFlowDisplay
""")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'cbp' has no attribute 'nothing'"):
        _ = cbp.nothing
