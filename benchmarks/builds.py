"""Two builds of cbp side by side: is any workload slower than before?

    python benchmarks/builds.py v0.2.0 HEAD     two revisions; each is built once
    python benchmarks/builds.py old/bin/python new/bin/python   or two environments
    python benchmarks/builds.py v0.2.0 HEAD --only W1 W4 --pairs 21

Times the seven workloads (workloads.py) in float32 and float64, with one thread by CPU
time and with two by wall time. Each build runs in one process of its own. The
two take turns, and who begins changes from pair to pair. A table shows the median of
the pairs' ratios, before / after (above 1: faster now), the ratio of the best times,
and the quartiles. A busy machine widens the quartiles and shifts the median: repeat the
rows in question with more --pairs. Exits 1 if in some row both the median and the ratio
of the best times are below 0.99.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

from workloads import WORKLOADS

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))
from revision import program  # noqa: E402

DTYPES = ("float32", "float64")
THREADS = (1, 2)
# Seconds that one timed fit takes at least: epochs are added until it does.
LEAST = 0.15


def serve():
    """Fits what each line of stdin asks for, and answers with its seconds."""
    from cbp import BPClassifier

    warnings.simplefilter("ignore")
    data = {}
    for line in sys.stdin:
        name, dtype, n_jobs, epochs = json.loads(line)
        workload = WORKLOADS[name]
        if (name, dtype) not in data:
            data.clear()
            data[name, dtype] = workload.load(dtype)
        X, y = data[name, dtype]
        model = BPClassifier(
            workload.hidden,
            workload.activation,
            batch_size=workload.batch_size,
            max_iter=epochs,
            n_iter_no_change=epochs + 1,
            n_jobs=n_jobs,
            random_state=0,
        )
        clock = time.process_time if n_jobs == 1 else time.perf_counter
        start = clock()
        model.fit(X, y)
        print(clock() - start, flush=True)


class Build:
    """One build in a process of its own, with one BLAS thread."""

    def __init__(self, given):
        here = Path(__file__).resolve()
        python, variables = program(given)
        self.process = subprocess.Popen(
            [python, here, "--serve"],
            cwd="/",
            env={**variables, "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self, *task):
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit("a build died; its error stands above")
        return float(answer)


def compare(before, after, name, dtype, n_jobs, pairs):
    """Ratio of medians' pairs, of best times, and the quartiles of the former."""
    epochs = 1
    while before.seconds(name, dtype, n_jobs, epochs) < LEAST:
        epochs *= 2
    after.seconds(name, dtype, n_jobs, epochs)
    old, new = [], []
    for pair in range(pairs):
        order = [(before, old), (after, new)]
        for build, times in order if pair % 2 == 0 else order[::-1]:
            times.append(build.seconds(name, dtype, n_jobs, epochs))
    ratios = [a / b for a, b in zip(old, new, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    return median, min(old) / min(new), low, high


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", help="a revision, or the python of an environment")
    parser.add_argument("after", help="likewise")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--only", nargs="+", help="names of workloads")
    parser.add_argument("--dtypes", nargs="+", default=DTYPES, choices=DTYPES)
    parser.add_argument("--threads", nargs="+", type=int, default=THREADS)
    given = parser.parse_args()
    before, after = Build(given.before), Build(given.after)
    print("| workload | dtype | threads | median | best | quartiles |")
    print("|---|---|---|---|---|---|")
    slower = 0
    for workload in WORKLOADS.values():
        if given.only and workload.name not in given.only:
            continue
        for dtype in given.dtypes:
            for n_jobs in given.threads:
                median, best, low, high = compare(
                    before, after, workload.name, dtype, n_jobs, given.pairs
                )
                slower += median < 0.99 and best < 0.99
                print(
                    f"| {workload.name} | {dtype} | {n_jobs} | {median:.3f} | "
                    f"{best:.3f} | {low:.3f} to {high:.3f} |",
                    flush=True,
                )
    return slower


if __name__ == "__main__":
    sys.exit(serve() if sys.argv[1:] == ["--serve"] else main() > 0)
