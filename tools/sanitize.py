"""Runs the tests on builds that watch every access to memory: a table of reports.

    python tools/sanitize.py                      everything (hours)
    python tools/sanitize.py part                 what .ci/run does of it
    python tools/sanitize.py memory --tests batch kernels
    python tools/sanitize.py threads --times 5

Kinds of runs:
    memory   AddressSanitizer and UndefinedBehaviorSanitizer: tests/check_tiers.c for
             every tier (AVX-512 on pairs of AVX2 registers where the CPU has none),
             then the whole test suite
    threads  ThreadSanitizer: the tests of threads, 20 times; a race shows only when it
             happens
    leaks    LeakSanitizer: tests of all that C or Cython allocates, each file in a
             process that looks for lost memory when it ends
    part     a short part: check_tiers for memory, some tests of threads

Each kind has a build of its own in build/sanitize, without what setup.py does to make
wheels small. Before it is believed, a build has to find the planted faults of
tests/faults.c, and nothing in what is right. A file of tests is one process. Reports go
to files, so that those of child processes are seen, too. A report counts if a frame of
ours is in it; others (CPython, NumPy, OpenMP, none of which is built to be watched) are
counted apart. So no list of suppressions is needed. Exits 1 if there is a report of
ours, or if a test fails.

Needs Linux, gcc with its sanitizers, and what the tests need.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / "build" / "sanitize"
TESTS = ROOT / "tests"

# -fno-wrapv: Python's own flags let signed sums wrap around, and hide their overflow.
# -O1 keeps what -O2 would fold into nothing; -g1 has functions and lines. Unwind tables
# are for the stacks of leaks.
COMMON = "-O1 -g1 -fno-omit-frame-pointer -fasynchronous-unwind-tables"
COMMON += " -fno-wrapv -U_FORTIFY_SOURCE -UNDEBUG"
# Without null and object-size, which AddressSanitizer sees anyway: compiles faster.
WATCH_MEMORY = "-fsanitize=address,undefined,float-cast-overflow"
WATCH_MEMORY += " -fno-sanitize=null,object-size"
WATCH_MEMORY += " -fno-sanitize-recover=undefined,float-cast-overflow"
# Kind of build: its flags, and the libraries that must be loaded before Python.
BUILDS = {
    "memory": (WATCH_MEMORY, ["libasan.so", "libstdc++.so.6"]),
    "threads": ("-fsanitize=thread", ["libtsan.so"]),
}
C_FLAGS = "-std=gnu11 -ffp-contract=off -fno-math-errno"  # as in setup.py

# Kind of run: its build, and the options of the sanitizers. Status 0: what the reports
# say decides, not that there were any. UndefinedBehaviorSanitizer, beside another,
# writes to stderr alone, where it is lost if nobody looks at a child. So it aborts, and
# the other one reports that, with the name of the check.
ADDRESS = "handle_abort=1:allocator_may_return_null=1:strict_init_order=1"
UNDEFINED = {"UBSAN_OPTIONS": "print_stacktrace=1:abort_on_error=1"}
KINDS = {
    "memory": ("memory", {"ASAN_OPTIONS": f"detect_leaks=0:{ADDRESS}", **UNDEFINED}),
    "threads": ("threads", {"TSAN_OPTIONS": "exitcode=0:history_size=4"}),
    # Frames of Python have no frame pointer: only the slow way sees what called it.
    "leaks": (
        "memory",
        {
            "ASAN_OPTIONS": f"detect_leaks=1:fast_unwind_on_malloc=0"
            f":malloc_context_size=20:{ADDRESS}",
            "LSAN_OPTIONS": "exitcode=0",
            **UNDEFINED,
        },
    ),
}
# What each kind must report of tests/faults.c.
FAULTS = {
    "memory": {
        "write_behind": "heap-buffer-overflow",
        "overflow": "_add_overflow",
    },
    "threads": {"race": "data race"},
    "leaks": {"leak": "Direct leak of 48 byte", "leak_object": "Direct leak of 4"},
}

# Where the code stands whose reports count.
OURS = re.compile(r"\b(src_c|build/c|build/sanitize|tests)/\S+")
REPORT = re.compile(
    r"^(?===\d+==ERROR: (?:Address|Thread)Sanitizer|WARNING: ThreadSanitizer"
    r"|(?:Direct|Indirect) leak of )",
    re.M,
)

THREAD_TESTS = ["threads", "concurrency", "batch", "stop"]
LEAK_TESTS = ["batch", "training"]
# The part of .ci/run.
PART_TESTS = ["threads", "concurrency"]
PART_WORDS = "at_once or take_turns or batches-2"
# Tests that cannot run under a sanitizer, each with its cause.
LEFT_OUT = {}

Run = namedtuple("Run", "kind name status passed ours others seconds")
runs = []


class FailedError(Exception):
    """Something that had to be done first failed; what it was has been said."""


# ---- builds --------------------------------------------------------------------------


def call(command, log, **environment):
    """The status of a command, whose output goes to a log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        return subprocess.run(
            [str(word) for word in command],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        ).returncode


def must(command, log, **environment):
    if call(command, log, **environment):
        lines = log.read_text(errors="replace").splitlines()[-30:]
        print("\n".join([*lines, f"== failed: {shlex.join(map(str, command))}"]))
        raise FailedError


def compiler(build):
    """gcc for a build: flags of ours come after all others, and symbols are kept."""
    path = HOME / build / "cc"
    lines = [
        "#!/bin/sh",
        'for word; do shift; [ "$word" = -Wl,-s ] || set -- "$@" "$word"; done',
        f'exec gcc "$@" {COMMON} {BUILDS[build][0]}',
    ]
    text = "\n".join([*lines, ""])
    if not path.exists() or path.read_text() != text:  # other flags: all anew
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir(parents=True)
        path.write_text(text)
        path.chmod(0o755)
    return path


def build_faults(build):
    """The planted faults, as a library."""
    libraries = [gcc_library(name) for name in BUILDS[build][1]]
    if not all(map(os.path.isabs, libraries)):
        print("== gcc has not got all of", *libraries)
        raise FailedError
    flags = ["-shared", "-fPIC", f"-I{sysconfig.get_paths()['include']}"]
    command = [compiler(build), *flags, TESTS / "faults.c"]
    home = HOME / build
    must([*command, "-o", home / "faults.so"], home / "faults.log")


def build_cbp(build):
    print(f"== building cbp for {build} (minutes)", flush=True)
    start, cc, home = time.monotonic(), compiler(build), HOME / build
    folders = [f"--build-lib={home / 'lib'}", f"--build-temp={home / 'temp'}"]
    must(
        [sys.executable, "setup.py", "-q", "build", *folders],
        home / "build.log",
        CC=str(cc),
        LDSHARED=f"{cc} -shared",
        CBP_DEBUG="0",
    )
    print(f"   ({time.monotonic() - start:.0f} s)", flush=True)


def gcc_library(name):
    command = ["gcc", f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


# ---- runs ----------------------------------------------------------------------------


def environment_of(kind, logs):
    """What a process needs to be watched, and all that it starts."""
    build, options = KINDS[kind]
    home = HOME / build
    return {
        **{name: f"{value}:log_path={logs}" for name, value in options.items()},
        "PYTHONPATH": str(home / "lib"),
        "PYTHONSAFEPATH": "1",  # not the cbp of the folder where it was started
        "PYTHONMALLOC": "malloc",  # one block for each object
        "LD_PRELOAD": " ".join(map(gcc_library, BUILDS[build][1])),
    }


def watch(kind, name, command, **environment):
    """Runs a command, and reads what the sanitizers say of it."""
    folder = HOME / "reports" / kind / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    environment |= environment_of(kind, folder / "report")
    start = time.monotonic()
    status = call(command, folder / "output", **environment)
    ours, others = [], []
    for path in folder.glob("report.*"):
        for report in REPORT.split(path.read_text(errors="replace"))[1:]:
            (ours if OURS.search(report) else others).append(report)
    output = (folder / "output").read_text(errors="replace")
    passed = re.findall(r"\b(\d+) passed", output)
    return Run(
        *(kind, name, status, int(passed[-1]) if passed else 0),
        *(ours, others, time.monotonic() - start),
    )


def note(run):
    """Shows a run that has ended, and keeps it for the table."""
    runs.append(run)
    result = "" if run.status == 0 else f"FAILED, status {run.status}; "
    reports = f"{len(run.ours)} reports of ours, {len(run.others)} of others"
    seconds = f"({run.seconds:.0f} s)"
    print(
        f"   {run.name:24}{result}{run.passed} passed, {reports}", seconds, flush=True
    )
    for report in run.ours[:3]:
        print("\n".join(report.splitlines()[:30]), flush=True)
    if run.status:
        output = HOME / "reports" / run.kind / run.name / "output"
        print("\n".join(output.read_text(errors="replace").splitlines()[-30:]))


def check_instruments(kind):
    """Sees to it that planted faults are reported, also those of a child process whose
    output is not looked at, and that what is right is not."""
    print(f"== {kind}: the planted faults", flush=True)
    code = "import ctypes, sys; ctypes.PyDLL(sys.argv[1])[sys.argv[2]]()"
    parent = "import subprocess, sys; subprocess.run(sys.argv[1:], capture_output=True)"
    library = HOME / KINDS[kind][0] / "faults.so"
    for fault, words in {**FAULTS[kind], "no_fault": None}.items():
        child = [sys.executable, "-c", code, library, fault]
        run = watch(kind, fault, [sys.executable, "-c", parent, *child])
        found = [word for word in run.ours if fault in word]
        right = len(found) == 1 and words in found[0] if words else not run.ours
        said = f"{words}, reported" if words else "nothing reported"
        print(f"   {fault:16}{said if right else 'NOT ' + str(run.ours)}", flush=True)
        if not right:
            raise FailedError


def check_import(kind):
    """Sees to it that tests see the build, and not another cbp."""
    code = "import cbp, cbp._kernels as k; print(cbp.__file__, k.__file__)"
    run = watch(kind, "import", [sys.executable, "-c", code])
    places = (HOME / "reports" / kind / "import" / "output").read_text().split()
    if run.status or not all(place.startswith(str(HOME)) for place in places):
        print("== the tests would not see the build:", *places)
        raise FailedError


def run_tests(kind, names, times, jobs, words):
    """Files of tests, each in a process of its own; words: as pytest's -k."""
    skip = [f"--deselect={test}" for test in LEFT_OUT]

    def one(name, turn):
        file = f"tests/test_{name}.py"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist"]
        command += ["-p", "no:faulthandler", "-p", "no:cacheprovider"]
        command += ["-o", "timeout=7200", *skip, "-k", words, file]
        label = name if times == 1 else f"{name}-{turn + 1}"
        return watch(kind, label, command)

    with ThreadPoolExecutor(jobs) as pool:
        todo = [(name, turn) for turn in range(times) for name in names]
        for run in pool.map(lambda pair: one(*pair), todo):
            note(run)


def check_tiers(pairs):
    """tests/check_tiers.c and all kernels, as a program without Python; pairs: also the
    AVX-512 tier on pairs of AVX2 registers, if the CPU has no AVX-512. It takes half of
    the time."""
    print("== memory: every tier against the scalar one, in C", flush=True)
    cc = compiler("memory")
    home = HOME / ("check_tiers-pairs" if pairs else "check_tiers")
    sources = [TESTS / "check_tiers.c", *sorted(ROOT.glob("src_c/*.c"))]
    flags = [*C_FLAGS.split(), "-DCBP_PROGRAM", f"-I{ROOT / 'src_c'}"]
    if pairs and "avx512f" not in Path("/proc/cpuinfo").read_text():
        flags.append("-DCBP_EMULATE_AVX512")

    def compile(source):
        made = home / f"{source.stem}.o"
        must([cc, *flags, "-c", source, "-o", made], home / f"{source.stem}.log")
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile, sources))
    program = home / "check_tiers"
    must([cc, *objects, "-lm", "-o", program], home / "link.log")
    note(watch("memory", "check_tiers", [program]))


def all_tests():
    """Names of the files, long ones first."""
    paths = sorted(TESTS.glob("test_*.py"), key=lambda path: -path.stat().st_size)
    return [path.stem.removeprefix("test_") for path in paths]


def part():
    """What .ci/run does: the kernels for memory, some fits for races."""
    build_faults("memory")
    check_instruments("memory")
    check_instruments("leaks")
    check_tiers(pairs=False)
    build_faults("threads")
    check_instruments("threads")
    build_cbp("threads")
    check_import("threads")
    print("== threads: tests", flush=True)
    run_tests("threads", PART_TESTS, 1, os.cpu_count(), PART_WORDS)


def whole(kind, options):
    """All of one kind, or some tests."""
    build = KINDS[kind][0]
    build_faults(build)
    check_instruments(kind)
    build_cbp(build)
    check_import(kind)
    if kind == "memory" and not options.tests:
        check_tiers(pairs=True)
    print(f"== {kind}: tests", flush=True)
    tests = {"memory": all_tests(), "threads": THREAD_TESTS, "leaks": LEAK_TESTS}
    times = options.times if kind == "threads" else 1
    names = options.tests or tests[kind]
    run_tests(kind, names, times, options.jobs, options.words)


def table():
    words = ["kind", "processes", "passed", "failed", "reports of ours", "of others"]
    form = "{:10}{:>10}{:>10}{:>10}{:>17}{:>11}{:>9}".format
    print(f"\n{form(*words, 'seconds')}")
    for kind in KINDS:
        some = [run for run in runs if run.kind == kind]
        sums = [
            sum(run.passed for run in some),
            sum(run.status != 0 for run in some),
            sum(len(run.ours) for run in some),
            sum(len(run.others) for run in some),
            round(sum(run.seconds for run in some)),
        ]
        if some:
            print(form(kind, len(some), *sums))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("kind", nargs="?", choices=["all", "part", *KINDS], default="all")
    add("--tests", nargs="+", help="some files: batch is tests/test_batch.py")
    add("-k", dest="words", default="", help="some tests, as pytest's -k")
    add("--times", type=int, default=20, help="how often the tests of threads run")
    add("--jobs", type=int, default=os.cpu_count(), help="processes at once")
    options = parser.parse_args()
    kinds = [options.kind] if options.kind in KINDS else list(KINDS)
    try:
        if options.kind == "part":
            part()
        else:
            for kind in kinds:
                whole(kind, options)
    except FailedError:
        return 1
    table()
    return any(run.status or run.ours for run in runs)


if __name__ == "__main__":
    sys.exit(main())
