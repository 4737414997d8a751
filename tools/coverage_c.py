"""Which lines and branches of src_c the tests run: a table, with what they miss.

    make coverage                         builds, runs tests, prints; half an hour
    python tools/coverage_c.py --report   prints what was counted before

A copy of the package is built by gcc with --coverage -O1 and with the AVX-512 tier on
pairs of AVX2 registers, so that one machine runs three tiers. The tests below count
there. The NEON tier counts where check_tiers runs under qemu-aarch64, if Debian's
gcc-aarch64-linux-gnu and qemu-user are installed. gcovr adds up what several files have
of one line. A branch counts as often as the compiler has made code of it: in both
dtypes, in every tier, wherever it is inlined. Nothing is excluded.

Exits 1 if lines or branches are fewer than promised (docs/reliability.md).
"""

import argparse
import re
import shutil
import subprocess
import sys

from test_platforms import HOME, PAIRS, ROOT, checked, in_place, run

# All that drives kernels, and what calls the rest of src_c.
TESTS = ["kernels", "math", "dropout", "batch", "tiers", "steps", "threads", "recorder"]
LINES, BRANCHES = 95, 90
UNITS = ["scalar", "avx2", "avx512", "dispatch", "power"]
NEON = HOME / "check" / "coverage"
CROSS = "aarch64-linux-gnu-gcc"


def count_x86(processes):
    """Builds the package and runs the tests on it; what they print goes to a log."""
    package = in_place(
        "coverage", CBP_DEBUG="1", CFLAGS=f"--coverage {PAIRS}", LDFLAGS="--coverage"
    )
    for old in package.glob("build/temp*/**/*.gcda"):
        old.unlink()
    print("== running tests, see build/platforms/logs/coverage.log", flush=True)
    files = [f"tests/test_{name}.py" for name in TESTS]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    command += ["-n", processes, "-k", "not neon"]
    run([*command, *files], "coverage", 4 * 3600, cwd=package, PYTHONPATH=str(package))


def count_neon():
    """check_tiers for aarch64; its counts are those of the NEON tier alone."""
    if not (shutil.which(CROSS) and shutil.which("qemu-aarch64")):
        print("== NEON is left out: no gcc-aarch64-linux-gnu or no qemu-user")
        return
    print("== running check_tiers under qemu-aarch64", flush=True)
    NEON.mkdir(parents=True, exist_ok=True)
    for old in NEON.glob("*.gcda"):
        old.unlink()
    flags = ["-std=gnu11", "-O1", "-ffp-contract=off", "-fno-math-errno"]
    flags += ["-DCBP_PROGRAM", f"-I{ROOT / 'src_c'}"]
    objects = []
    for source in [ROOT / "tests" / "check_tiers.c", *sorted(ROOT.glob("src_c/*.c"))]:
        objects.append(NEON / f"{source.stem}.o")
        count = ["--coverage"] if source.stem == "neon" else []
        command = [CROSS, *flags, *count, "-c", source, "-o", objects[-1]]
        run(command, "coverage-neon", cwd=ROOT)
    program = NEON / "check_tiers"
    command = [CROSS, "-static", "--coverage", *objects, "-lm", "-o", program]
    run(command, "coverage-neon")
    checked("coverage-neon", ["qemu-aarch64", program])


def gcovr(root, *words):
    """What gcovr prints of files below a root, and whether its limits are kept."""
    command = [sys.executable, "-m", "gcovr", "--root", root, *words]
    command += ["--merge-mode-functions", "separate"]
    # Inner loops do run more than 2^32 times.
    command += ["--gcov-suspicious-hits-threshold", 0]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode not in (0, 2, 4, 6):  # bits of what is below the limits
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout, done.returncode


def report():
    """The share of every tier alone, then of every file over all tiers."""
    package, traces = HOME / "builds" / "coverage", []
    counts = {unit: package.glob(f"build/temp*/src_c/{unit}.gcda") for unit in UNITS}
    counts["modules"] = package.glob("build/temp*/build/*/cbp/*.gcda")  # barrier.h
    counts["neon"] = NEON.glob("neon.gcda")
    for unit, paths in counts.items():
        paths, root = list(paths), ROOT if unit == "neon" else package
        if not paths:
            print(f"{unit}: nothing was counted")
            continue
        traces += ["--add-tracefile", HOME / f"coverage-{unit}.json"]
        options = ["--filter", r"(.*/)?src_c/", "--json", traces[-1], "--print-summary"]
        text, _ = gcovr(root, *paths, *options)
        print(f"{unit}:", *re.findall(r"(?:lines|branches): .*", text), sep="  ")
    limits = ["--fail-under-line", LINES, "--fail-under-branch", BRANCHES]
    for metric in ("line", "branch"):
        words = [*traces, "--merge-lines", "--txt-metric", metric, "--txt", "-"]
        text, failed = gcovr(package, *words, "--print-summary", *limits)
        print(text)
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--report", action="store_true", help="of counts made before")
    parser.add_argument("--processes", default="auto", help="of pytest-xdist")
    args = parser.parse_args()
    if not args.report:
        count_x86(args.processes)
        count_neon()
    sys.exit(report())


if __name__ == "__main__":
    main()
