"""Changes the C code in one place at a time and asks whether any test notices.

    make mutants                                  200 of them, an hour or more
    make mutants MUTANTS="--count 20 --seed 7"
    python tools/mutants.py --list                what is still not caught, all seeds

A mutant differs from src_c by one operator, bound, constant, index, order of a sum or
of two operands, or lacks one statement. It is drawn by the seed among all such changes.
First the scalar tier is compiled, without optimization, which is fast, and its tables
stand in for those of the extension module; if no test fails, then AVX2, which
check_tiers compares with scalar, too. Code of one tier alone is tested in that tier;
AVX-512 on pairs of AVX2 registers and NEON under qemu-aarch64, by check_tiers alone. A
mutant is

    caught       a test failed, crashed or did not end
    same code    the compiler made the same machine code of it
    survived     all tests passed: it changes nothing that matters, or a test is missing
    no program   it does not compile, or is in no tier; another one is drawn

Results are kept in build/mutants, one file for each seed; a run that was stopped goes
on, and --again asks new tests about what has survived. The rules are our own, for
mutators of C know nothing of vec_add.
"""

import argparse
import ctypes
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field

from test_platforms import HOME as BUILT_HERE
from test_platforms import ROOT, in_place

HOME = ROOT / "build" / "mutants"
SOURCES = ROOT / "src_c"
BUILDS = BUILT_HERE / "builds"
FLAGS = ["-std=gnu11", "-g0", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-w"]
FLAGS += ["-Dalways_inline=unused"]  # to inline takes most of the compiler's time
PAIRS = "-DCBP_EMULATE_AVX512"
# Hints to the CPU, which change no result.
HINTS = re.compile("prefetch|AHEAD")
# Not what only declares, what only tests see, and orders of memory.
LEFT_OUT = {"cbp.h", "avx512_pairs.h", "barrier.h"}
TIERS = ("scalar", "avx2", "avx512", "neon")
CROSS = "aarch64-linux-gnu-gcc"
EMULATOR = "qemu-aarch64"
# What is asked before a mutant has survived.
TESTS = ["kernels", "math", "dropout"]
# Files that these are about; test_kernels.py is about all.
ABOUT = {
    "test_math.py": {"vmath.h", "vec.h"},
    "test_dropout.py": {"dropout.h", "rows.h"},
}
# Of power.c and dispatch.c, which are in no table.
OF_UNITS = ["-k", "power or cosine or tier or which_kernels"]
OF_UNITS += [f"tests/test_{name}.py" for name in ("math", "steps", "main", "batch")]
# Of what has survived: the whole package, and children of tests, too.
OF_ALL = ["kernels", "gradients", "batch", "bounds", "losses", "dropout", "extremes"]
OF_ALL = [f"tests/test_{name}.py" for name in [*OF_ALL, "recorder", "threads", "math"]]
LONGEST = 3600  # seconds; a far guard against loops without an end
FASTEST = {k: v for k, v in os.environ.items() if k != "CBP_ISA"}
PAGE, START = os.sysconf("SC_PAGE_SIZE"), time.time()

WORD = r"(?<![\w.])"
# What is found, and what stands there instead.
RULES = [
    *((re.escape(f" {a} "), f" {b} ") for a, b in (
        ("+", "-"), ("-", "+"), ("*", "+"), ("/", "*"), ("%", "/"),
        ("+=", "-="), ("-=", "+="), ("*=", "/="),
        ("<", "<="), ("<=", "<"), (">", ">="), (">=", ">"), ("==", "!="), ("!=", "=="),
        ("&&", "||"), ("||", "&&"), ("&", "|"), ("|", "&"), ("<<", ">>"), (">>", "<<"),
    )),
    *((rf"\b{a}\(", f"{b}(") for a, b in (
        ("vec_add", "vec_sub"), ("vec_sub", "vec_add"), ("vec_mul", "vec_add"),
        ("vec_div", "vec_mul"), ("vec_fma", "vec_fnma"), ("vec_fnma", "vec_fma"),
        ("vec_max", "vec_min"), ("vec_min", "vec_max"), ("vec_gt", "vec_ge"),
        ("vec_ge", "vec_gt"), ("vec_lt", "vec_gt"), ("vec_neg", ""), ("vec_abs", ""),
    )),
    (rf"{WORD}0(?![\w.])", "1"),
    (rf"{WORD}1(?![\w.])", "0"),
    (rf"{WORD}1(?![\w.])", "2"),
    (rf"{WORD}2(?![\w.])", "3"),
    (r"\[([a-z_]\w*)\]", r"[\1 + 1]"),
]  # fmt: skip
# The order of a sum: a loop that runs down, where it ran up.
UP = r"(?<!UNROLL )for \((int|ptrdiff_t) (\w+) = 0; \2 < ([^;&]+); \2\+\+\)"
DOWN = r"for (\1 \2 = (\3) - 1; \2 >= 0; \2--)"
SUMS = r" \+= |vec_add|vec_fma|acc\b"
SWAPPED = r"\bvec_(sub|div|max|min|select|gt|ge|lt)\("
STATEMENT = r"^( *)(?!return|break|continue|const|goto)[A-Za-z_*(][^;{}]*;( *\\)?$"
DECLARES = (
    r"^ *(const |static |enum |typedef |real |vec |int |ptrdiff_t |double |mask )"
)


@dataclass
class Mutant:
    file: str
    line: int
    old: str
    new: str
    result: str = ""
    by: str = ""
    tiers: list = field(default_factory=list)

    @property
    def key(self):
        return f"{self.file}:{self.line}: {self.new.strip()}"

    def __str__(self):
        old, new = self.old.strip(), self.new.strip()
        return f"{self.file}:{self.line}\n    - {old}\n    + {new}"


# ---- what can be changed -------------------------------------------------------------


def blank_comments(text):
    """The text with spaces for comments and strings, every character in its place."""
    pattern = r'/\*.*?\*/|"[^"\n]*"'
    return re.sub(pattern, lambda m: re.sub(r"[^\n]", " ", m[0]), text, flags=re.S)


def arguments(code, at):
    """Where the arguments of a call begin and end; at: behind its parenthesis."""
    depth, starts, spans = 0, at, []
    for i in range(at, len(code)):
        if code[i] in "([{":
            depth += 1
        elif code[i] in ",)" and depth == 0:
            spans.append((starts, i))
            starts = i + 1
            if code[i] == ")":
                return spans
        elif code[i] in ")]}":
            depth -= 1
    return []  # goes on in the next line


def changed_lines(line, code, before, behind):
    """Every line that this one could become, given its neighbours."""
    start = 0
    if HINTS.search(line):
        return
    if code.lstrip().startswith("#"):
        define = re.match(r"\s*#\s*define \w+\([^)]*\)", code)
        if not define:
            return
        start = define.end()
    for pattern, new in RULES:
        for m in re.compile(pattern).finditer(code, start):
            yield line[: m.start()] + m.expand(new) + line[m.end() :]
    loop = re.search(UP, code)
    if loop and re.search(SUMS, code + behind):
        yield line[: loop.start()] + loop.expand(DOWN) + line[loop.end() :]
    for m in re.compile(SWAPPED).finditer(code, start):
        spans = arguments(code, m.end())
        if len(spans) >= 2:
            (a, b), (c, d) = spans[-2:]
            swapped = line[c:d].strip(), line[a:b].strip()
            lead = "" if a == m.end() else " "
            yield line[:a] + lead + ", ".join(swapped) + line[d:]
    begins = before.rstrip(" \\")[-1:] in ("", ";", "{", "}", ":", ")")
    if begins and re.match(STATEMENT, code) and not re.match(DECLARES, code):
        yield re.match(r" *", line)[0] + ";" + (" \\" if line.endswith("\\") else "")


def candidates():
    """Every mutant of src_c, in order."""
    found = {}
    for path in sorted(SOURCES.iterdir()):
        text = path.read_text("utf-8")
        if path.name in LEFT_OUT:
            continue
        code = blank_comments(text).split("\n")
        for number, line in enumerate(text.split("\n"), 1):
            around = code[number - 2], *code[number : number + 1], ""
            for new in changed_lines(line, code[number - 1], *around[:2]):
                mutant = Mutant(path.name, number, line, new)
                if new != line:
                    found.setdefault(mutant.key, mutant)
    return list(found.values())


# ---- compiling -----------------------------------------------------------------------


def call(*command, **more):
    """A finished process; its output as text."""
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, **more)


class Builder:
    """Compiles src_c as a mutant has it: objects, a library of tables, check_tiers."""

    def __init__(self, package):
        self.package, self.sources = package, HOME / "src_c"
        (self.module,) = package.glob("cbp/_kernels*.so")
        (self.temporary,) = package.glob("build/temp*")
        neon = shutil.which(CROSS) and shutil.which(EMULATOR)
        self.units = [*TIERS[:3], *(["neon"] if neon else []), "dispatch", "power"]
        self.original = self.module.read_bytes()
        self.restore()
        self.texts = {unit: self.text(unit) for unit in self.units}

    def restore(self):
        shutil.rmtree(self.sources, ignore_errors=True)
        shutil.copytree(SOURCES, self.sources)

    def apply(self, mutant):
        self.restore()
        path = self.sources / mutant.file
        lines = path.read_text("utf-8").split("\n")
        lines[mutant.line - 1] = mutant.new
        path.write_text("\n".join(lines), "utf-8")

    def text(self, unit):
        """What the preprocessor makes of a file."""
        compiler = CROSS if unit == "neon" else "gcc"
        return call(compiler, PAIRS, "-E", "-P", self.sources / f"{unit}.c").stdout

    def changed(self):
        """The units that a mutant changes; what is in the scalar tier is in all."""
        if self.text("scalar") != self.texts["scalar"]:
            return [unit for unit in self.units if unit in TIERS]
        return [unit for unit in self.units if self.text(unit) != self.texts[unit]]

    def object(self, unit, level, mutated=True, arm=False):
        """The path of an object file; CalledProcessError."""
        made = HOME / f"{unit}{level}{'-arm' * arm}{'-new' * mutated}.o"
        source = (self.sources if mutated else SOURCES) / f"{unit}.c"
        if unit == "check_tiers":
            source = ROOT / "tests" / "check_tiers.c"
        if mutated or not made.exists() or made.stat().st_mtime < START:
            command = [CROSS if arm else "gcc", PAIRS, *FLAGS, level]
            command += [f"-I{self.sources if mutated else SOURCES}", "-c", source]
            call(*command, "-o", made, check=True)
        return made

    def no_tier(self, unit):
        """The source of a tier that is left out."""
        source = HOME / f"no-{unit}.c"
        source.write_text(f"const void *const cbp_{unit}[2] = {{0, 0}};\n")
        return source

    def library(self, unit, level):
        """A library with the tables of one tier."""
        made = HOME / f"{unit}.so"
        call("gcc", "-shared", self.object(unit, level), "-lm", "-o", made, check=True)
        return made

    def relink(self, changed):
        """The copy of the package with what a mutant changes."""
        parts = [self.no_tier(tier) for tier in TIERS[2:]]
        for unit in (*TIERS[:2], "dispatch", "power"):
            new = unit in changed
            old = self.temporary / "src_c" / f"{unit}.o"
            parts.append(self.object(unit, "-O1") if new else old)
        glue = self.temporary / "build" / "c-debug" / "cbp" / "_kernels.o"
        self.module.unlink()  # it is in use
        parts += [glue, "-lm", "-o", self.module]
        call("gcc", "-shared", "-fPIC", *parts, check=True)

    def unlink(self):
        """The copy of the package as it was."""
        self.module.unlink(missing_ok=True)
        self.module.write_bytes(self.original)

    def same_code(self, changed):
        """Whether the optimizing compiler makes the same of all that has changed."""
        for unit in changed[:2]:  # scalar and AVX2, or one tier of its own
            new, old = (
                self.object(unit, "-O1", mutated, arm=unit == "neon").read_bytes()
                for mutated in (True, False)  # what fails, fails at once
            )
            if old != new:
                return False
        return True

    def check_tiers(self, changed, tiers):
        """The program with these tiers, two at most: others cost time alone."""
        arm, program, parts = "neon" in tiers, HOME / "check_tiers", []
        for unit in (*TIERS, "dispatch", "power", "check_tiers"):
            if unit in TIERS and unit not in tiers:
                parts.append(self.no_tier(unit))
            else:
                parts.append(self.object(unit, "-O1", unit in changed, arm))
        command = [CROSS, "-static"] if arm else ["gcc"]
        call(*command, *parts, "-lm", "-o", program, check=True)
        return [EMULATOR, program] if arm else ["stdbuf", "-oL", program]


# ---- asking the tests ----------------------------------------------------------------


def differs(command):
    """Whether check_tiers finds a difference; it is ended at the first one."""
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, text=True
    )
    signal.alarm(LONGEST)
    try:
        return any("differs" in line for line in process.stdout) or process.wait() != 0
    except TimeoutError:
        return True
    finally:
        signal.alarm(0)
        process.kill()
        process.wait()


def replace_tables(tier, library):
    """Writes the tables of a library over those of the process, for the rest of it."""
    from kernel_table import DTYPES, Kernels

    libc, new = ctypes.CDLL(None), ctypes.CDLL(str(library))
    tables = (ctypes.c_void_p * 2).in_dll(new, f"cbp_{tier}")
    for dtype, table in zip(DTYPES, tables, strict=True):
        old = Kernels(tier, dtype).table
        at, size = ctypes.addressof(old), ctypes.sizeof(old)
        page = at // PAGE * PAGE
        can_write = ctypes.c_void_p(page), ctypes.c_size_t(at + size - page), 3
        if libc.mprotect(*can_write):
            raise OSError("the kernel tables cannot be written")
        ctypes.memmove(at, table, size)


def tier_of(item):
    """The tier that a test is about, by its parameters; "" if it is about no one."""
    return next((tier for tier in TIERS if f"{tier}-float" in item.nodeid), "")


class Judge:
    """A plugin of pytest that runs the tests again and again: for each mutant in a
    child of the process that has imported and collected everything."""

    def __init__(self, builder, mutants, killers, again, done):
        self.builder, self.mutants, self.done = builder, mutants, done
        self.killers, self.again, self.failed = killers, again, ""

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed = self.failed or report.nodeid

    def pytest_runtestloop(self, session):
        # One case of every test, then another of each.
        turns, order = Counter(), []
        for item in session.items:
            test = item.originalname, tier_of(item)
            turns[test] += 1
            order.append((turns[test], len(order), item))
        self.items = {item.nodeid: item for *_, item in sorted(order)}
        self.killers = [test for test in self.killers if test in self.items]
        self.must_pass()
        for mutant in self.mutants:
            self.judge(mutant)
            if self.done(mutant):
                break
        return True

    def judge(self, mutant):
        """Sets the result of a mutant and what has caught it."""
        builder = self.builder
        builder.apply(mutant)
        changed = mutant.tiers = builder.changed()
        try:
            mutant.by = self.caught_by(mutant, changed) if changed else ""
            if mutant.by == "same code" or not changed:
                mutant.result, mutant.by = mutant.by or "no program", ""
            else:
                mutant.result = "caught" if mutant.by else "survived"
        except subprocess.CalledProcessError:
            mutant.result, mutant.by = "no program", ""

    def caught_by(self, mutant, changed):
        builder = self.builder
        if not set(changed) & set(TIERS):
            return self.ask_package(changed, OF_UNITS)
        if self.again and set(changed) & set(TIERS[:2]):
            return self.ask_package(changed, OF_ALL)
        one = "scalar" if "scalar" in changed else changed[0]
        if one == "scalar":
            by = self.ask(mutant.file, {one: builder.library(one, "-O0")})
            if by:
                return by
        if builder.same_code(changed):
            return "same code"
        if one in ("scalar", "avx2"):
            both = [tier for tier in TIERS[:2] if tier in changed]
            tables = {tier: builder.library(tier, "-O0") for tier in both}
            by = self.ask(mutant.file, tables)
            if by or one == "scalar":  # tests of kernels have compared both already
                return by
        command = builder.check_tiers(changed, ["scalar", one])
        return "check_tiers" if differs(command) else ""

    def ask_package(self, changed, options):
        """The test that fails where the package is made of what a mutant changes."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", *options]
        try:
            self.builder.relink(changed)
            done = call(*command, cwd=self.builder.package, env=FASTEST)
        finally:
            self.builder.unlink()
        found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.M)
        return found[1] if found else "a crash" * bool(done.returncode)

    def must_pass(self):
        """Asks all tests about the code as it is, once for each copy of the package."""
        builder, options = self.builder, OF_ALL if self.again else OF_UNITS
        stamp = HOME / ("passes-all" if self.again else "passes")
        if stamp.exists() and stamp.stat().st_mtime > builder.module.stat().st_mtime:
            return
        print("== asking the tests about the code as it is", flush=True)
        builder.restore()
        tables = {tier: builder.library(tier, "-O0") for tier in TIERS[:2]}
        one = {"scalar": tables["scalar"]}
        by = self.ask("", one) or self.ask("", tables)
        by = by or self.ask_package([], options)
        if by:
            raise SystemExit(f"{by} fails without any change")
        stamp.touch()

    def asked(self, file, tier):
        """The tests that could notice a change of a file, in a tier."""
        for item in self.items.values():
            about = not file or file in ABOUT.get(item.path.name, {file})
            if about and tier_of(item) in ("", tier):
                yield item

    def ask(self, file, libraries):
        """The test that fails where libraries stand for tiers; of the last of them."""
        own = list(self.asked(file, list(libraries)[-1]))
        known = Counter(t for t in self.killers[-200:] if self.items[t] in own)
        last = dict.fromkeys(t for t in self.killers[:-9:-1] if self.items[t] in own)
        first = [self.items[t] for t in {**last, **dict(known.most_common(12))}]
        ends, writes = os.pipe()
        child = os.fork()
        if not child:
            self.run([*first, *(i for i in own if i not in first)], libraries, writes)
        os.close(writes)
        by = self.wait(child, ends)
        if by in self.items:
            self.killers.append(by)
        return by

    def run(self, items, libraries, writes):
        """In the child: up to the first test that fails."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        try:
            try:
                for tier, library in libraries.items():
                    replace_tables(tier, library)
            except Exception as error:
                os.write(writes, f"! {error!r}".encode())
                return
            for item, following in zip(items, [*items[1:], None], strict=True):
                item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
                if self.failed:
                    break
            os.write(writes, (self.failed or "passed").encode())
        finally:
            os._exit(0)

    def wait(self, child, ends):
        signal.alarm(LONGEST)
        try:
            with os.fdopen(ends, "rb") as file:
                by = file.read().decode() or "a crash"
        except TimeoutError:
            by = "no end"
        signal.alarm(0)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if by[0] == "!":
            raise RuntimeError(f"no mutant was tested: {by}")
        return "" if by == "passed" else by


# ---- all of it -----------------------------------------------------------------------


def load(path):
    if not path.exists():
        return []
    return [Mutant(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]


def is_program(mutant):
    return mutant.result in ("caught", "survived")


def report(mutants):
    """Prints the figures, and the mutants that were not caught."""
    print(*(m for m in mutants if m.result == "survived"), sep="\n")
    count = Counter(m.result for m in mutants)
    programs = count["caught"] + count["survived"]
    print(*(f"{name}: {n}" for name, n in count.items()), sep=", ")
    share = count["caught"] / max(1, programs)
    print(f"caught: {count['caught']} of {programs}, {share:.1%}")


def built_package():
    """A copy of the package, built anew if any source is newer."""
    made = sorted(BUILDS.glob("mutants/cbp/*.so"))
    files = [*SOURCES.iterdir(), *ROOT.glob("cbp/*.p*"), *ROOT.glob("tests/*.py")]
    newest = max(path.stat().st_mtime for path in files)
    if made and min(path.stat().st_mtime for path in made) > newest:
        return made[0].parents[1]
    print("== building a copy of the package", flush=True)
    return in_place("mutants", CBP_DEBUG="1")


def run(count, seed, again):
    HOME.mkdir(parents=True, exist_ok=True)
    path = HOME / f"seed-{seed}.jsonl"
    known, drawn = {m.key: m for m in load(path)}, candidates()
    random.Random(seed).shuffle(drawn)
    drawn = [known.get(m.key, m) for m in drawn]
    print(f"seed {seed}: {len(drawn)} changes are possible; {len(known)} judged before")
    package = built_package()
    todo = [m for m in drawn if m.result == ("survived" if again else "")]
    programs = sum(map(is_program, drawn)) - again * len(todo)

    def done(mutant):
        nonlocal programs
        programs += is_program(mutant)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(mutant)) + "\n")
        where = f"{mutant.file}:{mutant.line} {mutant.result}"
        print(f"{programs}/{count} {where} {mutant.by}", file=sys.stderr, flush=True)
        return programs >= count

    if programs < count and todo:
        os.chdir(package)
        sys.path[:0] = [str(package), str(package / "tests")]
        import pytest

        killers = [m.by for m in drawn if "::" in m.by]
        judge = Judge(Builder(package), todo, killers, again, done)
        options = ["-q", "-s", "--durations=0"]
        options += [
            f"-pno:{name}" for name in ("cacheprovider", "xdist", "faulthandler")
        ]
        files = [f"tests/test_{name}.py" for name in TESTS]
        pytest.main([*options, *files], plugins=[judge])
    report([m for m in drawn if m.result])


def timed_out(*_):
    raise TimeoutError


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=200, help="mutants that compile")
    parser.add_argument("--seed", type=int, default=1, help="of the draw")
    parser.add_argument("--again", action="store_true", help="survivors once more")
    parser.add_argument(
        "--list", action="store_true", help="only what was found before"
    )
    args = parser.parse_args()
    if args.list:
        found = [m for path in sorted(HOME.glob("*.jsonl")) for m in load(path)]
        report(list({m.key: m for m in found}.values()))
        return
    signal.signal(signal.SIGALRM, timed_out)
    os.environ.update(OMP_NUM_THREADS="1", CBP_ISA="scalar")
    run(args.count, args.seed, args.again)


if __name__ == "__main__":
    main()
