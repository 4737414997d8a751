"""Ctrl-C at random moments: what is left of the call, and how soon it is felt.

    python benchmarks/interrupts.py                    200 interrupts, five minutes
    python benchmarks/interrupts.py --interrupts 40 --seed 1

Another thread sends SIGINT at a random moment of a fit, of partial_fit, of L-BFGS, or
of a prediction of a million rows, with n_jobs from 1 to 4. Each time KeyboardInterrupt
must leave the call; the weights must be those of a whole step, which is made again by
partial_fit (of L-BFGS: of a whole iteration) and compared bit for bit; no thread may be
left. The delays are those until KeyboardInterrupt has left the call. The promise is a
99th percentile of 100 ms on a quiet machine; on a busy one the CPU time says more.
(tests/test_interrupts.py has the proof without a clock, benchmarks/latency.py more
kinds of calls.)
"""

import argparse
import os
import random
import signal
import sys
import threading
import time
import warnings

import measure
import numpy as np

from cbp import BPClassifier, _kernels

BATCH, N_ROWS = 200, 4000
ENDLESS = {"max_iter": 2**31 - 1, "max_fun": 2**31 - 1, "tol": 0}
ENDLESS |= {"n_iter_no_change": np.inf}
# Hidden layers, the size of a batch, and the solver of fits; None: partial_fit.
FITS = {
    "fit": ((100,), BATCH, "adam"),
    "fit, large batches": ((500, 500), N_ROWS, "adam"),
    "fit, lbfgs": ((100,), BATCH, "lbfgs"),
    "partial_fit": ((300, 300), BATCH, "sgd"),
}
CALLS = (*FITS, "predict")
# Seconds after which a signal that was not felt is called lost, and sent again.
LOST = 20


def made_up(n_rows):
    rng = np.random.RandomState(0)
    return rng.normal(size=(n_rows, 64)).astype("f4"), rng.randint(10, size=n_rows)


def model_of(name, n_jobs):
    hidden, batch, solver = FITS.get(name, FITS["fit"])
    return BPClassifier(
        hidden,
        solver=solver,
        batch_size=batch,
        n_jobs=n_jobs,
        shuffle=False,
        random_state=0,
        monitor=False,
        **ENDLESS,
    )


class Interrupter(threading.Thread):
    """Sends SIGINT after a delay, and again if it is lost."""

    def __init__(self, delay):
        super().__init__(daemon=True)
        self.delay, self.felt, self.sent = delay, threading.Event(), []

    def run(self):
        time.sleep(self.delay)
        while not self.felt.is_set():
            self.sent.append((time.perf_counter(), time.process_time()))
            os.kill(os.getpid(), signal.SIGINT)
            self.felt.wait(LOST)


def interrupted(call, delay):
    """Seconds, and CPU seconds, until KeyboardInterrupt left the call; signals lost."""
    sender = Interrupter(delay)
    sender.start()
    try:
        while True:
            call()
    except KeyboardInterrupt:
        felt = time.perf_counter(), time.process_time()
        sender.felt.set()
    sender.join()
    last = sender.sent[-1]
    return felt[0] - last[0], felt[1] - last[1], len(sender.sent) - 1


def weights_of(model):
    return [array.tobytes() for array in [*model.coefs_, *model.intercepts_]]


def is_whole(name, model, X, y):
    """Whether the weights are those of as many steps as the model says."""
    again = model_of(name, 1)
    classes = np.unique(y)
    if name == "fit, lbfgs":
        if model.n_iter_ == 0:
            again.initialize(X, y)
        else:
            again.set_params(max_iter=model.n_iter_).fit(X, y)
        return weights_of(again) == weights_of(model)
    batch = FITS[name][1]
    epochs, batches = divmod(model._optimizer.steps, len(X) // batch)
    if model._optimizer.steps == 0:
        again.initialize(X, y)
    for _ in range(epochs):
        again.partial_fit(X, y, classes=classes)
    if batches:
        rows = slice(0, batches * batch)
        again.partial_fit(X[rows], y[rows], classes=classes)
    return weights_of(again) == weights_of(model)


def threads():
    return len(os.listdir("/proc/self/task"))


def try_once(name, n_jobs, delay, small, large):
    """One interrupt: its delays, and what was wrong."""
    model, wrong, before = model_of(name, n_jobs), [], threads()
    if name == "predict":
        model.set_params(max_iter=1).fit(*small)
        fitted, weights = model._fitted, weights_of(model)
        seconds, cpu, n_lost = interrupted(lambda: model.predict(large), delay)
        if model._fitted is not fitted or weights_of(model) != weights:
            wrong.append("another model")
    else:
        call = model.fit
        if name == "partial_fit":
            model.partial_fit(*small, classes=np.unique(small[1]))
            call = model.partial_fit
        seconds, cpu, n_lost = interrupted(lambda: call(*small), delay)
        fitted = hasattr(model, "coefs_")
        if fitted and not is_whole(name, model, *small):
            wrong.append("not a whole step")
    if n_lost:
        wrong.append(f"{n_lost} signals were lost")
    for _ in range(500):  # the operating system takes its time
        if threads() <= before:
            break
        time.sleep(0.01)
    else:
        wrong.append("threads are left")
    return seconds, cpu, wrong


def spread(seconds):
    half, most = np.percentile(seconds, [50, 99])
    return f"median {1000 * half:.0f} ms, 99 % {1000 * most:.0f} ms"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--interrupts", type=int, default=200, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    # A shell's background jobs ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rng, late, faults = random.Random(given.seed), {}, 0
    small, (large, _) = made_up(N_ROWS), made_up(10**6)
    print(*measure.conditions(_kernels.isa(), f"seed {given.seed}"), sep="\n")
    for i in range(given.interrupts):
        name, n_jobs = CALLS[i % len(CALLS)], 1 + i // len(CALLS) % 4
        seconds, cpu, wrong = try_once(name, n_jobs, rng.random(), small, large)
        late.setdefault(name, []).append((seconds, cpu))
        if wrong:
            faults += 1
            print(f"{i}: {name}, n_jobs={n_jobs}: {', '.join(wrong)}", flush=True)
        if sys.stderr.isatty():
            print(f"\r{i + 1} of {given.interrupts}", end="\r", file=sys.stderr)
    for name, pairs in [*late.items(), ("all", sum(late.values(), []))]:
        seconds, cpu = zip(*pairs, strict=True)
        print(
            f"{name}: {len(pairs)} interrupts, felt after {spread(seconds)} (CPU time "
            f"{spread(cpu)})"
        )
    print(f"{given.interrupts} interrupts, {faults} with a fault")
    return faults > 0


if __name__ == "__main__":
    sys.exit(main())
