"""How long a user waits: for the import of cbp, and after Ctrl-C.

    python benchmarks/latency.py             three minutes
    python benchmarks/latency.py --quick     half a minute

Every import is timed in a fresh interpreter, in turn: sklearn.base, and after it cbp or
scikit-learn's own networks. For Ctrl-C another thread sends SIGINT at a random moment
of an endless fit or of endless predictions. The script measures the time until
KeyboardInterrupt has left the call. This includes everything that fit does to keep the
weights reached. The promise is 100 ms on a quiet machine. The tests prove that an
interrupt works; this script says how fast.
"""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from functools import partial

import measure
import numpy as np
from report import Report, parser, say
from scipy.sparse import csr_matrix

from cbp import BPClassifier, _kernels

PROMISED = 0.1
# (what is imported before, what is timed)
IMPORTS = {
    "sklearn.base": ("pass", "import sklearn.base"),
    "cbp after that": ("import sklearn.base", "import cbp"),
    "sklearn.neural_network after that": (
        "import sklearn.base",
        "import sklearn.neural_network",
    ),
}
TIMED_IMPORT = """
import time
{}
start = time.perf_counter()
{}
print(time.perf_counter() - start)
"""
# (hidden layers, rows, parameters of BPClassifier) of fits on 64 inputs, 10 classes.
WHOLE = ((1000, 1000), 40_000, dict(batch_size=40_000))
FITS = {
    "Adam, batch 200": ((100,), 2000, {}),
    "Adam, batch 200, sparse": ((100,), 2000, {}),
    "Adam, batch 200, monitor=True": ((100,), 2000, dict(monitor=True)),
    "Adam, batch 200, two threads": ((100,), 2000, {}),
    "SGD, early stopping": ((100,), 2000, dict(solver="sgd", early_stopping=True)),
    "Adam, batch 1": ((16,), 500, dict(batch_size=1)),
    "Adam, batch 40,000 of a wide network": WHOLE,
    "Adam, batch 40,000 of a wide network, two threads": WHOLE,
    "L-BFGS, wide network": (*WHOLE[:2], dict(solver="lbfgs", max_fun=10**9)),
}
# (hidden layers, rows) of predictions.
PREDICTIONS = {
    "one row": ((100,), 1),
    "five rows of a wide network": ((4000, 4000), 5),
    "20,000 rows of a wide network": ((4000, 4000), 20_000),
}


def import_seconds(before, timed):
    """Seconds that `timed` takes in a fresh interpreter, without `before`."""
    code = TIMED_IMPORT.format(before, timed)
    return float(subprocess.check_output([sys.executable, "-c", code]))


def interrupted(call, delay):
    """Time from SIGINT, sent after `delay` seconds, to KeyboardInterrupt here.

    Returns
    -------
    tuple of two float
        Seconds, and CPU seconds of this process.
    """
    sent = []

    def send():
        time.sleep(delay)
        sent.extend([time.perf_counter(), time.process_time()])
        os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        call()
    except KeyboardInterrupt:
        felt = time.perf_counter(), time.process_time()
    else:
        sys.exit("the call ended before it was interrupted; it should be endless")
    sender.join()
    return felt[0] - sent[0], felt[1] - sent[1]


def made_up(n_rows):
    rng = np.random.RandomState(0)
    return rng.normal(size=(n_rows, 64)).astype("f4"), rng.randint(10, size=n_rows)


def endless_fit(name):
    hidden, n_rows, settings = FITS[name]
    X, y = made_up(n_rows)
    model = BPClassifier(
        hidden,
        precision="float32",
        max_iter=2**31 - 1,
        n_iter_no_change=np.inf,
        tol=0,
        n_jobs=2 if "two threads" in name else 1,
        **settings,
    )
    return partial(model.fit, csr_matrix(X) if "sparse" in name else X, y)


def endless_predictions(name):
    hidden, n_rows = PREDICTIONS[name]
    X, y = made_up(max(n_rows, 10))
    model = BPClassifier(hidden, precision="float32").initialize(X, y)

    def predict():
        while True:
            model.predict(X[:n_rows])

    return predict


def spread(seconds):
    """Cells with the median and the largest."""
    return [f"{1000 * np.median(seconds):.0f} ms", f"{1000 * max(seconds):.0f} ms"]


def main():
    args = parser(__doc__).parse_args()
    rounds = 5 if args.quick else 20
    n_threads = 1 if measure.CORES and len(measure.CORES) < 2 else 2
    how = f"{measure.pin(n_threads)}, float32; {rounds} rounds"
    report = Report("Import and Ctrl-C", args, measure.conditions(_kernels.isa(), how))
    warnings.simplefilter("ignore")
    # A shell's background jobs ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    seconds = {name: [] for name in IMPORTS}
    for _ in range(rounds + 1):
        for name, statements in IMPORTS.items():
            seconds[name].append(import_seconds(*statements))
    report.head(["import of", "median", "longest"])
    for name in IMPORTS:
        report.row([name, *spread(seconds[name][1:])])  # the first one reads the disk

    rng = np.random.RandomState(0)
    cells = ["felt after, median", "longest", "CPU time meanwhile, median", "longest"]
    report.head(["Ctrl-C in", *cells])
    longest = 0
    for kind, names, make in [
        ("fit", FITS, endless_fit),
        ("predict", PREDICTIONS, endless_predictions),
    ]:
        for name in names:
            if "two threads" in name and n_threads < 2:
                continue
            say(f"{kind}: {name}")
            call = make(name)
            taken = [interrupted(call, rng.uniform(0.3, 0.6)) for _ in range(rounds)]
            late, cpu = zip(*taken, strict=True)
            longest = max(longest, *late)
            report.row([f"{kind}: {name}", *spread(late), *spread(cpu)])
    kept = "kept" if longest <= PROMISED else "not kept"
    report.line(
        f"\nPromised on a quiet machine: {1000 * PROMISED:.0f} ms at most, {kept}. "
        "On a busy one a call waits for its core, and the CPU time says more."
    )
    report.write()


if __name__ == "__main__":
    main()
