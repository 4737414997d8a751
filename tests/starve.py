"""Refuses memory and threads to calls of cbp, and looks what becomes of them.

    python tests/starve.py                       all of it, an hour
    python tests/starve.py --only threads limits
    python tests/starve.py --only memory --calls fit predict
    python tests/starve.py --tries 100           of each call as many requests at most
    python tests/starve.py --in-a-row 99         and the 98 that come after each

A call that gets no memory must raise MemoryError, or come to the bits that it comes to
with memory. After a MemoryError the estimator, or the file, must be what it was before,
the same call must work, and no block may be lost. If no more threads are to be had, a
fit must go on with fewer, to the same bits.

Needs glibc and a C compiler: a library of ours (starve.c) is put before the allocators
of the C library, which then serve Python's own, too. So requests of Python, NumPy and
cbp all are counted and refused. Each call is swept in a fork; if that crashes, another
goes on behind that request. A crash in other libraries is told, with their name, but is
no fault of cbp's; nor is a SystemError, by which the interpreter says that it, or a
library, has lost an error.
"""

import argparse
import collections
import copy
import ctypes
import faulthandler
import gc
import hashlib
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from array import array
from functools import partial
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from child import fork
from sklearn.datasets import load_iris
from sklearn.preprocessing import scale

import cbp
from cbp import BPClassifier, BPRegressor
from cbp.callbacks import Checkpoint

HERE = Path(__file__).parent
NEVER = 2**62
# So often a call fails at the same request before blocks are called lost: caches grow,
# too, but not each time. So many calls come before, for what is made once and kept.
REPEATS = 9
WARM_UP = 9

X, y = load_iris(return_X_y=True)
X = scale(X)
NAMES = np.array(["setosa", "versicolor", "virginica"], object)[y]
WIDE = np.tile(X, (2, 16))


# ---- what is called


def outcome(model):
    """The bits of what training leaves behind."""
    held = model._fitted
    if not held.is_model:
        return None
    optimizer, scores = held.get("_optimizer"), held.get("validation_scores_")
    return (
        held._network.kind,
        held.theta().tobytes(),
        (held.n_iter_, held.t_, *held.loss_curve_, *(scores or [])),
        optimizer and (optimizer.steps, optimizer.state.tobytes()),
    )


def state(model):
    """What a call that fails must leave as it was: the same objects."""
    own = {name: id(value) for name, value in vars(model).items()}
    own.pop("_checked_parameters", None)  # a cache
    lazy = ("coefs_", "intercepts_")
    held = {name: id(value) for name, value in vars(model._fitted).items()}
    return own, {name: held[name] for name in held if name not in lazy}


class Training:
    """A call that trains a model which was fitted to something else before."""

    def __init__(self, model, train, begin=None):
        self.train = train
        self.begin = begin or (lambda model: model.fit(X[:, :3], y))
        self.base = self.begin(model)
        self.expected = None

    def prepare(self):
        self.model = copy.copy(self.base)
        if self.begin is stream:  # so that it has kept its buffers
            stream(self.model)
        self.before = state(self.model), outcome(self.model)

    def call(self):
        self.train(self.model)

    def check(self, failed):
        if failed:
            assert (state(self.model), outcome(self.model)) == self.before, "changed"
            self.call()
        got = outcome(self.model)
        self.expected = self.expected or got
        assert got == self.expected, "other bits"


class Asking:
    """A call that changes nothing; `ask` returns bytes."""

    def __init__(self, model, ask):
        self.model, self.ask = model, ask
        self.expected = None

    def prepare(self):
        self.before, self.got = state(self.model), None

    def call(self):
        self.got = self.ask(self.model)

    def check(self, failed):
        if failed:
            assert state(self.model) == self.before, "changed"
            self.call()
        self.expected = self.expected or self.got
        assert self.got == self.expected, "another answer"


class Saving:
    """A call that writes a file in place of another one."""

    def __init__(self, model, folder, **options):
        self.model, self.options = model, options
        self.path = os.path.join(folder, "model.cbp")
        cbp.save(classifier().fit(X, y), self.path)
        self.former = Path(self.path).read_bytes()
        self.expected = None

    def prepare(self):
        for file in Path(self.path).parent.iterdir():  # of a process that has crashed
            file.unlink()
        Path(self.path).write_bytes(self.former)
        self.before = state(self.model), outcome(self.model)

    def call(self):
        cbp.save(self.model, self.path, **self.options)

    def check(self, failed):
        assert (state(self.model), outcome(self.model)) == self.before, "changed"
        assert os.listdir(os.path.dirname(self.path)) == ["model.cbp"], "files left"
        if failed:
            assert Path(self.path).read_bytes() == self.former, "another file"
            self.call()
        got = Path(self.path).read_bytes()
        self.expected = self.expected or got
        assert got == self.expected, "another file"


def stream(model):
    return model.partial_fit(X, y, classes=[0, 1, 2])


def classifier(*hidden, **options):
    options = {"batch_size": 50, "max_iter": 3, "random_state": 0} | options
    return BPClassifier(hidden or (6,), **options)


# What every call begins with.
EARLY = {"solver": "sgd", "early_stopping": True, "monitor": True, "average": 0.9}
SPARSE = sp.csr_matrix(np.where(X > 0, X, 0))
MANY = np.resize(X, (600, 4))


def regressor(**options):
    return BPRegressor(hidden_layer_sizes=5, max_iter=2, random_state=0, **options)


def load_case(folder):
    path = os.path.join(folder, "file.cbp")
    cbp.save(classifier(**EARLY).fit(X, NAMES), path)

    def ask(model):
        got = cbp.load(path)
        return repr((got.get_params(), outcome(got), got.classes_)).encode()

    return Asking(classifier().fit(X, y), ask)


def checkpoint_case(folder):
    path = os.path.join(folder, "fit")
    return Training(classifier().set_callbacks(Checkpoint(path, 1)), fit)


def resume_case(folder):
    path = os.path.join(folder, "fit")
    classifier().set_callbacks(Checkpoint(path, 2)).fit(X, y)
    return Training(classifier(), lambda model: model.resume(path, X, y))


def fit(model):
    return model.fit(X, y)


def on(X, y):
    return lambda model: model.fit(X, y)


def asking(ask):
    return lambda folder: Asking(classifier().fit(X, y), ask)


# A row for each call: a function of a folder of its own.
CASES = {
    "fit": lambda _: Training(classifier(5, 4), fit),
    "fit lbfgs": lambda _: Training(classifier(solver="lbfgs"), fit),
    "fit threads": lambda _: Training(
        classifier(100, 60, n_jobs=3, max_iter=2), on(WIDE, np.r_[y, y])
    ),
    "fit early": lambda _: Training(classifier(**EARLY), on(X, NAMES)),
    "fit sparse": lambda _: Training(regressor(), on(SPARSE, y)),
    "fit checkpoint": checkpoint_case,
    "resume": resume_case,
    "partial_fit first": lambda _: Training(classifier(), stream, lambda model: model),
    "partial_fit": lambda _: Training(classifier(), stream, stream),
    "predict row": asking(lambda model: model.predict(X[:1]).tobytes()),
    "predict": asking(lambda model: model.predict(MANY).tobytes()),
    "predict_proba sparse": asking(lambda model: model.predict_proba(SPARSE).tobytes()),
    "save": lambda folder: Saving(classifier(**EARLY).fit(X, NAMES), folder),
    "save optimizer": lambda folder: Saving(
        stream(classifier()), folder, optimizer=True
    ),
    "load": load_case,
}


# Fits that are of use to several threads: (model, X, y).
TEAMS = {
    "rows": (classifier(100, 60, batch_size=200, max_iter=2), WIDE, np.r_[y, y]),
    "units": (classifier(400, batch_size=200, max_iter=2), WIDE, np.r_[y, y]),
    "lbfgs": (classifier(100, 60, solver="lbfgs", max_iter=4), WIDE, np.r_[y, y]),
    "early stopping": (
        classifier(100, 60, **EARLY | {"batch_size": 200}),
        WIDE,
        np.r_[y, y],
    ),
}


# ---- one call, at many requests


class Memory:
    """The requests for memory, through the variables of starve.c."""

    def __init__(self):
        names = "asked", "begin", "end", "live"
        self.asked, self.begin, self.end, self.live = self.numbers(*names)

    @staticmethod
    def numbers(*names):
        """Variables of starve.c; to write them needs no memory."""
        library = ctypes.CDLL(None)
        found = [ctypes.c_long.in_dll(library, f"starve_{name}") for name in names]
        return [memoryview(number).cast("B").cast("l") for number in found]

    def refuse(self, first, last):
        """Requests first .. last - 1 from now on fail."""
        self.asked[0], self.end[0], self.begin[0] = 0, last, first

    def refuse_none(self):
        self.begin[0] = NEVER

    def count(self, array, i):
        """Blocks that are in use and not garbage, into an array: a number of Python's
        would take one."""
        sys._clear_type_cache()  # it keeps names alive
        gc.collect()
        array[i] = self.live[0]


def attempt(case, memory, first, n):
    """One call of which n requests from `first` on fail: what became of it."""
    case.prepare()
    said, failed = "passed", False
    memory.refuse(first, first + n)
    try:
        case.call()
    except MemoryError:
        memory.refuse_none()
        said, failed = "refused", True
    except BaseException as error:
        memory.refuse_none()
        said, failed = f"{type(error).__name__}: {error} {place_of(error)}", True
    finally:
        memory.refuse_none()
    try:
        case.check(failed)
    except Exception as error:
        said = f"after {said!r}: {type(error).__name__}: {error}"
    return said


def asker(told):
    """Whose request was refused: the innermost library on the stack, and what it called
    of the interpreter; or "the interpreter" if its loop comes before any."""
    called = ""
    for line in told.splitlines():
        path, _, symbol = line.partition("(")
        path, symbol = Path(path), symbol.partition("+")[0]
        if path.name.startswith(("python", "libpython")):
            if symbol.startswith("_PyEval_Eval"):
                break
            called = symbol or called
        elif not path.name.startswith(("starve", "libc.")):
            return f"{path.parent.name}/{path.name} {called}".strip()
    return "the interpreter"


def is_not_cbp(asker):
    return not asker.startswith("cbp/")


def refused_last():
    with tempfile.TemporaryFile("w+") as file:
        ctypes.CDLL(None).starve_tell(file.fileno())
        file.seek(0)
        return asker(file.read())


def place_of(error):
    """The lines of Python that an error came through, the innermost first."""
    lines = traceback.extract_tb(error.__traceback__)[-4:]
    return " < ".join(f"{Path(at.filename).name}:{at.lineno}" for at in lines[::-1])


def lost(case, memory, first, n):
    """Blocks that each repetition of a call has not freed; 0 unless all lose some."""
    live = array("l", [0, 0])
    least = NEVER
    for i in range(REPEATS):
        attempt(case, memory, first, n)
        live[0] = live[1]
        memory.count(live, 1)
        if i > 1:
            least = min(least, live[1] - live[0])
            if least <= 0:
                return 0
    return least


def sweep(case, memory, numbers, n):
    """Prints a line for each request: its number, and what became of the call."""
    ignored = []
    # Those of Cython come with the name of a function. Those of the interpreter, of
    # generators that could not be closed, say nothing of cbp.
    sys.unraisablehook = lambda what: (
        ignored.append(what.object) if isinstance(what.object, str) else None
    )
    live = array("l", [0, 0])
    gc.collect()
    gc.freeze()
    memory.count(live, 0)
    for first in numbers:
        print(first, end=" ", flush=True)
        faulthandler.dump_traceback_later(300, exit=True)  # the end of a hang
        said = attempt(case, memory, first, n)
        askers = [refused_last()]
        if said not in ("passed", "refused"):
            said = f"{said}; asked by {askers[0]}"
        memory.count(live, 1)
        if live[1] > live[0]:
            if lost(case, memory, first, n) > 0:
                # A repetition may have come to another request: whoever is not cbp.
                askers.append(refused_last())
                said = f"blocks lost, {said}; asked by {max(askers, key=is_not_cbp)}"
            memory.count(live, 1)
        live[0] = live[1]
        if ignored:
            said += f"; ignored in {ignored[0]}"
            ignored.clear()
        print(said.replace("\n", " "), flush=True)


def in_fork(work, on_line=lambda line: None):
    """Calls `work` in a fork: the lines that it prints, its status, what stderr got."""
    with tempfile.TemporaryFile("w+", errors="replace") as errors:

        def watched(write):
            os.dup2(write, 1)
            os.dup2(errors.fileno(), 2)
            ctypes.CDLL(None).starve_watch()
            faulthandler.enable()  # tells of a crash first, and then hands it on
            work()
            sys.stdout.flush()

        sys.stdout.flush()
        pid, read = fork(watched)
        lines = []
        with os.fdopen(read) as told:
            for line in told:
                lines.append(line.strip())
                on_line(line)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        errors.seek(0)
        return lines, status, errors.read()


def sweep_whole(name, tries, n):
    """What became of a call at each request: {number: text}, and how many there are."""
    memory, found = Memory(), {}
    with tempfile.TemporaryDirectory() as folder:
        case = CASES[name](folder)
        for _ in range(WARM_UP):
            attempt(case, memory, NEVER, 0)
        case.prepare()
        memory.refuse(NEVER, NEVER)
        case.call()
        requests = memory.asked[0]
        numbers = list(range(0, requests, -(-requests // (tries or requests))))
        while numbers:
            tell = partial(progress, name, requests)
            lines, status, errors = in_fork(
                partial(sweep, case, memory, numbers, n), tell
            )
            for line in lines:
                number, _, said = line.partition(" ")
                found[int(number)] = said or crash(status, errors)
            if status and not lines:
                raise RuntimeError(f"{name}: {crash(status, errors)}")
            numbers = [number for number in numbers if number > max(found)]
    return found, requests


def progress(name, requests, line):
    """On a line that is written over."""
    if sys.stderr.isatty():
        text = f"{name}: {line.split()[0]} of {requests}"
        print(f"\r{text:60}", end="\r", file=sys.stderr, flush=True)


def crash(status, errors):
    """What a process told of its end: the signal, in whose code it was and where, and
    whose request was refused, which may have spoilt what others crash at."""
    name = signal.Signals(-status).name if status < 0 else f"status {status}"
    frames = "\n".join(
        line for line in errors.splitlines() if ")[0x" in line or not line
    )
    asked, _, crashed = frames.strip().rpartition("\n\n")
    where = [
        line.split('File "')[1] for line in errors.splitlines() if 'File "' in line
    ]
    if where:
        path, _, line = where[0].partition('", line ')
        where = [f"at {Path(path).name}:{line}"]
    own = asker(crashed)
    return " ".join([f"{name} in {own}", *where[:1], f"; asked by {asker(asked)}"])


# Errors of the interpreter's and of NumPy's, where not cbp was refused its request; and
# what the interpreter loses itself (3.11: what was to be copied).
THEIRS = "SystemError", "RuntimeError: can't allocate lock", "blocks lost", "SIG"
THEIRS += ("AttributeError: 'numpy.",)
THEIR_CALLS = ("PySequence_List",)


def is_elsewhere(said):
    """Whether a crash or an error is one of the interpreter's or of a library's."""
    by_cbp = "asked by cbp/" in said and not said.endswith(THEIR_CALLS)
    return said.startswith(THEIRS) and not by_cbp and " in cbp/" not in said


def is_wrong(said):
    return said not in ("passed", "refused") and not is_elsewhere(said)


def try_memory(calls, tries, n):
    """Prints what became of each call; how many times it was wrong."""
    wrong = 0
    for name in calls:
        found, requests = sweep_whole(name, tries, n)
        counts = collections.Counter(found.values())
        passed, refused = counts.pop("passed", 0), counts.pop("refused", 0)
        own = sum(count for said, count in counts.items() if is_wrong(said))
        others = sum(counts.values()) - own
        print(
            f"{name}: of {requests} requests {len(found)} refused in turn, "
            f"{refused} MemoryError, {passed} passed, {own} wrong, {others} crashes or "
            "errors elsewhere",
            flush=True,
        )
        for said, count in counts.most_common():
            first = next(number for number in found if found[number] == said)
            print(f"    {count} times, first at {first}: {said}", flush=True)
        wrong += own
    return wrong


# ---- no more threads, less address space


def fit_without_threads(given):
    """Fits that may have `given` threads beside their own; a line for each."""
    begin, asked = Memory.numbers("begin_threads", "threads")
    for name, (model, data, target) in TEAMS.items():
        expected = outcome(copy.copy(model).set_params(n_jobs=1).fit(data, target))
        model = copy.copy(model).set_params(n_jobs=4)
        asked[0], begin[0] = 0, given
        model.fit(data, target)
        begin[0], refused = NEVER, asked[0] > given
        same = outcome(model) == expected == outcome(model.fit(data, target))
        said = "passed" if same and refused else "other bits" if refused else "no need"
        print(f"{name} {said}", flush=True)


def try_threads():
    """Prints what became of fits that got 0, 1 and 2 of three threads."""
    wrong = 0
    for given in range(3):
        lines, status, errors = in_fork(partial(fit_without_threads, given))
        lines += [crash(status, errors)] if status else []
        wrong += len(TEAMS) - sum(line.endswith("passed") for line in lines)
        print(f"{given} of 3 threads to be had:", "; ".join(lines), flush=True)
    return wrong


def fit_within(bytes_more):
    """A fit by two threads and a prediction, with so much more address space."""
    rng = np.random.RandomState(0)
    data, target = rng.normal(size=(500, 100)), rng.randint(3, size=500)
    model = BPClassifier((700, 700), max_iter=1, n_jobs=2, random_state=0)
    if bytes_more is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + bytes_more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        answer = model.fit(data, target).predict_proba(data)
        print(hashlib.sha256(answer.tobytes()).hexdigest())
    except MemoryError:
        print("refused")


def try_limits(steps, most=60):
    """Prints what became of a fit and a prediction within more and more memory."""
    (whole,), _, _ = in_fork(partial(fit_within, None))
    counts = collections.Counter()
    for i in range(steps):
        lines, status, errors = in_fork(partial(fit_within, (most << 20) * i // steps))
        last = errors.splitlines()[-1:]
        counts[f"{crash(status, errors)} {last}" if status else lines[0]] += 1
    passed, refused = counts.pop(whole, 0), counts.pop("refused", 0)
    wrong = steps - passed - refused
    print(
        f"address space, {steps} limits from 0 to {most} MiB more: {refused} "
        f"MemoryError, {passed} passed, {wrong} wrong",
        *counts,
        sep="\n    ",
        flush=True,
    )
    return wrong + (passed == 0) + (refused == 0)


# ---- the command


def build(folder):
    """The path of the library; None if it cannot be made here."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if platform.libc_ver()[0] != "glibc" or compiler is None:
        return None
    library = os.path.join(folder, "starve.so")
    command = [compiler, "-shared", "-fPIC", "-O2", HERE / "starve.c", "-o", library]
    subprocess.run([*command, "-ldl", "-lpthread"], check=True)
    return library


def run(*arguments, **options):
    """This program in a process that sees only what is refused; None if that cannot be
    had here."""
    with tempfile.TemporaryDirectory() as folder:
        library = build(folder)
        if library is None or "LD_PRELOAD" in os.environ:
            return None
        return subprocess.run(
            [sys.executable, __file__, *arguments],
            env={
                **os.environ,
                "LD_PRELOAD": library,
                "PYTHONMALLOC": "malloc",
                "OPENBLAS_NUM_THREADS": "1",
                "PYTHONHASHSEED": "0",
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
            **options,
        )


KINDS = "threads", "limits", "memory"


def parser():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = partial(parser.add_argument, nargs="+", metavar="NAME")
    add("--only", choices=KINDS, default=KINDS, help=", ".join(KINDS))
    add("--calls", choices=CASES, default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--tries", type=int, metavar="N")
    parser.add_argument("--in-a-row", type=int, default=1, metavar="N")
    return parser


def main():
    given = parser().parse_args()
    if not hasattr(ctypes.CDLL(None), "starve_watch"):
        done = run(*sys.argv[1:])
        return "needs glibc and a C compiler" if done is None else done.returncode
    warnings.simplefilter("ignore")
    wrong = 0
    if "threads" in given.only:
        wrong += try_threads()
    if "limits" in given.only:
        wrong += try_limits(given.tries or 30)
    if "memory" in given.only:
        wrong += try_memory(given.calls, given.tries, given.in_a_row)
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
