"""Kills fits at random moments and resumes them: what a checkpoint is for.

    python tests/kills.py --kills 1000 --seed 0

Every fit runs in a process of its own, which tells the epochs that it has reached, and
is killed (SIGKILL) some epochs and some fraction of a millisecond later, often while it
writes. The next process resumes it, until it comes to its end. Then its model must have
the bits of a fit that nobody has killed. Not more than the epochs since the last
checkpoint may be lost, and what a killed process leaves in the folder must not grow.
"""

import argparse
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from functools import partial

import numpy as np
from child import fork
from sklearn.datasets import load_iris

from cbp import BPClassifier, _checkpoint
from cbp._solvers import OpenLBFGS
from cbp.callbacks import Checkpoint

X, y = load_iris(return_X_y=True)
EVERY = 3
COMMON = {"hidden_layer_sizes": (30, 20), "batch_size": 10, "max_iter": 45}
COMMON |= {"random_state": 0, "tol": 0, "n_iter_no_change": 45}
FITS = [
    {"solver": "adam"},
    {"solver": "sgd", "learning_rate": "cosine", "warmup": 0.2},
    {"solver": "adam", "early_stopping": True, "average": 0.9},
    {"solver": "sgd", "dropout": 0.2, "learning_rate": "adaptive"},
    {"solver": "adam", "dropout": 0.2, "n_jobs": 2, "hidden_layer_sizes": 100},
    {"solver": "lbfgs", "alpha": 0.01},
]
if not OpenLBFGS.is_there():
    FITS.pop()


class Tell:
    """Writes the number of each epoch into a pipe."""

    def __init__(self, pipe):
        self.pipe = pipe

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        progress = getattr(context, "progress", None)
        if progress is not None:
            os.write(self.pipe, b"%d\n" % progress.epoch)


def digest(model):
    arrays = [*model.coefs_, *model.intercepts_, model.loss_curve_]
    arrays += [model.gradient_flow_.gradient, model.validation_scores_ or []]
    if model._optimizer is not None:
        arrays.append(model._optimizer.state)
    content = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def train(model, path, pipe):
    """In the child: begins the fit, or goes on with it."""
    warnings.simplefilter("ignore")
    # The epoch is told when its checkpoint, if there is one, has been written.
    model.set_callbacks(Checkpoint(path, EVERY), Tell(pipe))
    try:
        model.resume(path, X, y)
    except FileNotFoundError:
        model.fit(X, y)
    os.write(pipe, f"end {digest(model)}\n".encode())


def train_and_kill(model, path, rng):
    """A process that trains, and is killed unless it is too fast: the last epoch that
    it has told, the digest if it has come to its end, whether it was killed."""
    pid, read = fork(partial(train, model, path))
    lines = []
    with os.fdopen(read) as told:
        for _ in range(rng.randrange(1, 14)):
            lines.append(told.readline())
        time.sleep(rng.random() * 2e-3)
        os.kill(pid, signal.SIGKILL)
        lines += told.readlines()  # what was in the pipe
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status)
    if not killed and os.waitstatus_to_exitcode(status):
        raise RuntimeError("a process has failed")
    epochs = [int(line) for line in lines if line[:1].isdigit()]
    ends = [line.split()[1] for line in lines if line.startswith("end")]
    return max(epochs, default=None), ends[0] if ends else None, killed


def run(n_kills, seed, folder):
    """Kills until there were `n_kills`; the figures."""
    rng = random.Random(seed)
    n = {"kills": 0, "resumed": 0, "fits": 0, "wrong": 0, "lost": 0, "most_lost": 0}
    n["during_writing"] = n["left"] = 0
    whole = {}
    while n["kills"] < n_kills:
        number = n["fits"] % len(FITS)
        model = BPClassifier(**COMMON | FITS[number])
        path = os.path.join(folder, f"fit {n['fits']}")
        if number not in whole:
            twin = BPClassifier(**COMMON | FITS[number])
            whole[number] = digest(twin.fit(X, y))
        reached, end = 0, None
        while end is None:
            epoch, end, killed = train_and_kill(model, path, rng)
            n["kills"] += killed
            reached = max(reached, epoch or 0)
            n["during_writing"] += os.path.exists(f"{path}.tmp") or os.path.exists(
                f"{path}.1.tmp"
            )
            if end is None:
                saved = 0
                if os.path.exists(path) or os.path.exists(f"{path}.1"):
                    saved = _checkpoint.newest(path).meta["numbers"]["n_iter"]
                    n["resumed"] += 1
                lost = reached - saved
                n["lost"] += max(lost, 0)
                n["most_lost"] = max(n["most_lost"], lost)
                n["wrong"] += lost >= EVERY
                reached = saved
        n["wrong"] += end != whole[number]
        n["fits"] += 1
        left = [name for name in os.listdir(folder) if name.endswith(".tmp")]
        n["left"] = max(n["left"], len(left))
        for name in os.listdir(folder):
            os.unlink(os.path.join(folder, name))
    return n


def main(arguments=None):
    """The figures, in a sentence."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        n = run(given.kills, given.seed, folder)
    return (
        f"{n['kills']} kills of {n['fits']} fits (seed {given.seed}): {n['resumed']} "
        f"resumed from a checkpoint, {n['kills'] - n['resumed']} began anew or had "
        f"ended, {n['during_writing']} were killed while writing; most epochs lost "
        f"{n['most_lost']} of an interval of {EVERY}; {n['wrong']} wrong"
    )


if __name__ == "__main__":
    print(main())
    sys.exit(0)
