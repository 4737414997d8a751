"""Calls that get no memory, no threads or too little address space: a part of what
`python tests/starve.py` tries.
"""

import subprocess
import sysconfig

import pytest
import starve

pytestmark = [
    pytest.mark.skipif(
        bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        reason="a Python without the GIL has an allocator of its own",
    ),
    pytest.mark.thread_unsafe(reason="starts many processes"),
]


def starved(*arguments):
    """What starve.py prints; nothing that it tried was wrong."""
    done = starve.run(
        *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    if done is None:
        pytest.skip("needs glibc and a C compiler, and to be the only one before them")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_call_without_memory_raises_memory_error_and_changes_nothing():
    printed = starved("--only", "memory", "--tries", "6")
    assert printed.count("requests") == len(starve.CASES)


def test_a_prediction_loses_and_spoils_nothing_whichever_request_fails():
    starved("--only", "memory", "--calls", "predict", "--tries", "999")


def test_fits_go_on_with_fewer_threads_and_end_where_address_space_does():
    printed = starved("--only", "threads", "limits", "--tries", "12")
    assert printed.count("passed") == 3 * len(starve.TEAMS) + 1
