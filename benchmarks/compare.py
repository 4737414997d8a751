"""Training speed of cbp and its peers: a table per number of threads, one picture.

    python benchmarks/compare.py             a quarter of an hour, all installed peers
    python benchmarks/compare.py --quick     under three minutes: shorter runs, not all

Writes the section "Training" of results.md, and results.png (report.py).
Each peer and number of threads has one process, pinned to the same number of cores. In
it cbp and the peer train in turn, always from the same initial weights. A rate is the
samples per second of a whole training run (cbp, scikit-learn: `fit`) that lasts a set
time. The loss is computed after the same number of epochs for all. cbp with two threads
also runs against cbp with one thread. peers.py has the programs.
"""

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import time
from functools import partial
from statistics import median

import measure
from peers import MARKS, PROGRAMS, installed, log_loss, prepare, sklearn_orders
from report import Report, parser, say, times
from workloads import WORKLOADS

from cbp import _kernels

# Names on the command line. One process each.
PEERS = {
    "sklearn": "scikit-learn",
    "torch": "PyTorch eager",
    "compile": "PyTorch compiled",
    "jax": "JAX",
    "single": "cbp, one thread",
}
# What --quick leaves out unless named: compiling takes PyTorch minutes.
SLOW = ["compile"]
WORDS = {1: "One thread", 2: "Two threads"}
NOTES = """\
cbp: thousand samples per second, share of the FMA peak, loss. Others: thousand samples
per second / loss / **cbp is how many times as fast**, the median over rounds of runs
that alternate in one process; cbp's rate is the median over all its runs. Loss: mean
log loss on the training rows after the given number of epochs, computed from everyone's
weights by the same float64 code. Peak: share of the peak of fused multiply-adds that
the cores in use were measured to have, counting the matrix products alone.

No peer runs another algorithm: all train by Adam with the same rate, L2 penalty, batch
size and initial weights, and for the loss in the same order of rows too, so that losses
differ only by rounding and by where PyTorch's eager Adam adds epsilon. In timed runs
PyTorch and JAX shuffle in their own, faster way.
Two classes (W1) are one logistic output everywhere. PyTorch and JAX are timed without
the time that compiling takes; cbp and scikit-learn with all that `fit` does. Made-up
rows are Gaussian clusters of the shape of Fashion-MNIST (784 inputs) or Covertype (54).
"""


def parse_arguments():
    made = parser(__doc__)

    def names(text):
        return text.split(",")

    def numbers(text):
        return [int(number) for number in text.split(",")]

    made.add_argument(
        "--peers",
        type=names,
        help=f"of {','.join(PEERS)} (default: all; quick: without {','.join(SLOW)})",
    )
    cores = os.cpu_count() if measure.CORES is None else len(measure.CORES)
    made.add_argument(
        "--threads", type=numbers, default=[1, 2][:cores], help="default: 1,2"
    )
    made.add_argument(
        "--dtype",
        type=names,
        help="default: float64,float32 with scikit-learn, float32 with the others",
    )
    made.add_argument("--workloads", type=names, default=list(WORKLOADS))
    made.add_argument(
        "--rounds", type=int, help="runs of each program (default 7; quick: 5)"
    )
    made.add_argument(
        "--seconds", type=float, help="per run, at least (default 0.5; quick: 0.05)"
    )
    made.add_argument("--worker", help=argparse.SUPPRESS)
    args = made.parse_args()
    args.peers = args.peers or [p for p in PEERS if not (args.quick and p in SLOW)]
    args.rounds = args.rounds or (5 if args.quick else 7)
    args.seconds = args.seconds or (0.05 if args.quick else 0.5)
    checked = [
        (args.peers, PEERS),
        (args.workloads, WORKLOADS),
        (args.threads, range(1, cores + 1)),
        (args.dtype or [], ["float32", "float64"]),
    ]
    for given, known in checked:
        if unknown := set(given) - set(known):
            made.error(f"{sorted(unknown)}: known are {list(known)}")
    return args


# ---- one process: cbp and one peer ------------------------------------------------


def work(args):
    """Print one line of JSON per workload and dtype, and a last one on the pools."""
    (n_threads,) = args.threads
    for dtype in args.dtype:
        peak = measure.Peak(_kernels.isa(), dtype)
        for name in args.workloads:
            record = {"workload": name, "dtype": dtype, "threads": n_threads}
            record.update(time_programs(WORKLOADS[name], dtype, n_threads, peak, args))
            print(json.dumps(record), flush=True)
    print(json.dumps({"pools": measure.blas_kernels()}), flush=True)


def time_programs(workload, dtype, n_threads, peak, args):
    X, y = workload.load(dtype)
    orders = sklearn_orders(workload, workload.epochs)
    losses, epochs, left_out = {}, {}, {}

    def ready(program):
        """The program's `train`, after a first run that compiles everything."""
        train = program(workload, X, y, n_threads).train
        return train, log_loss(workload, *train(workload.epochs, orders), X, y)

    actions, peaks = {}, []
    for name, (train, loss) in prepare(
        ["cbp", PEERS[args.worker]], ready, left_out
    ).items():
        losses[name] = loss
        epochs[name] = measure.epochs_lasting(train, args.seconds)
        actions[name] = partial(train, epochs[name])
    actions["peak"] = lambda: peaks.append(peak.measure(n_threads))
    seconds = measure.alternate(actions, args.rounds)
    return {
        "rates": {
            name: [workload.rows * epochs[name] / s for s in seconds[name]]
            for name in epochs
        },
        "losses": losses,
        "peak": median(peaks),
        "left_out": left_out,
    }


# ---- all processes, and the report ------------------------------------------------


def run_workers(args, left_out):
    """Yield the records of every peer and number of threads."""
    for threads in args.threads:
        for peer in args.peers:
            if not installed(PEERS[peer]):
                left_out[peer] = f"{PEERS[peer]} left out: not installed"
            elif not (peer == "single" and threads == 1) and not (
                args.quick and peer == "sklearn" and threads > 1
            ):
                yield from run_worker(args, peer, threads, left_out)


def run_worker(args, peer, threads, left_out):
    both = peer == "sklearn" or (peer == "single" and not args.quick)
    dtypes = args.dtype or (["float64", "float32"] if both else ["float32"])
    options = {
        "--worker": peer,
        "--threads": str(threads),
        "--dtype": ",".join(dtypes),
        "--workloads": ",".join(args.workloads),
        "--rounds": str(args.rounds),
        "--seconds": str(args.seconds),
    }
    command = [sys.executable, __file__, *itertools.chain(*options.items())]
    pinned = measure.pin(threads)  # the worker inherits it
    say(f"-- cbp and {PEERS[peer]}, {threads} thread(s), {pinned}")
    environment = {**os.environ, **measure.thread_environment(threads)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True
    ) as worker:
        for line in worker.stdout:
            if line.startswith("{"):
                yield {"peer": peer, **json.loads(line)}
    if worker.returncode:
        left_out[peer, threads] = (
            f"**{PEERS[peer]}, {threads} thread(s): its process failed**, "
            f"status {worker.returncode}"
        )


def cell_of(table, record):
    """The cell of a record's workload, dtype and threads; the first use makes it."""
    key = record["threads"], record["dtype"], record["workload"]
    return table.setdefault(key, {"cbp": [], "peaks": [], "loss": {}, "peers": {}})


def add(table, record):
    """Enter one record; cbp's runs against all peers go into one entry."""
    cell = cell_of(table, record)
    cbp = record["rates"].pop("cbp")
    cell["cbp"] += cbp
    cell["peaks"].append(record["peak"])
    cell["loss"].update(record["losses"])
    for name, rates in record["rates"].items():
        cell["peers"][name] = median(rates), measure.ratio(cbp, rates)


def show(rate):
    """Thousand samples per second, three digits."""
    k = rate / 1e3
    return f"{k:.0f}" if k >= 100 else f"{k:.1f}" if k >= 10 else f"{k:.2f}"


def show_cbp(cell, workload):
    share = median(cell["cbp"]) * workload.flops / median(cell["peaks"])
    share = "–" if math.isnan(share) else f"{share:.0%}"
    return [f"**{show(median(cell['cbp']))}**", share, f"{cell['loss']['cbp']:.4f}"]


def show_peer(cell, name):
    if name not in cell["peers"]:
        return "–"
    rate, ratio = cell["peers"][name]
    return f"{show(rate)} / {cell['loss'][name]:.4f} / **{times(ratio)}**"


def tell(table, report):
    """A table per number of threads."""
    for threads in sorted({key[0] for key in table}):
        chosen = {key[1:]: cell for key, cell in table.items() if key[0] == threads}
        found = {name for cell in chosen.values() for name in cell["peers"]}
        peers = [name for name in PROGRAMS if name in found]
        report.line(f"\n### {WORDS.get(threads, f'{threads} threads')}")
        head = ["workload", "dtype", "rows", "epochs", "cbp k/s", "peak", "loss"]
        report.head([*head, *peers])
        for (dtype, name), cell in chosen.items():
            workload = WORKLOADS[name]
            about = [workload.title, dtype, f"{workload.rows} {workload.source}"]
            others = [show_peer(cell, peer) for peer in peers]
            report.row(
                [*about, str(workload.epochs), *show_cbp(cell, workload), *others]
            )
    report.line("\n" + NOTES)


def draw(table, path):
    """All rates on a log axis; each dtype and number of threads has a panel."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    threads = sorted({key[0] for key in table})
    dtypes = sorted({key[1] for key in table}, reverse=True)
    names = [name for name in WORKLOADS if any(key[2] == name for key in table)]
    figure, axes = plt.subplots(
        len(threads),
        len(dtypes),
        figsize=(1.5 + 5 * len(dtypes), 1.6 + (0.6 + 0.6 * len(names)) * len(threads)),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    handles = {}
    # Programs of equal rate do not hide each other.
    lanes = {name: 0.08 * lane for lane, name in enumerate(MARKS)}
    for (n_threads, dtype, name), cell in table.items():
        ax = axes[threads.index(n_threads), dtypes.index(dtype)]
        y = names.index(name)
        peak = median(cell["peaks"]) / WORKLOADS[name].flops
        rates = {"cbp": median(cell["cbp"])}
        rates.update({peer: rate for peer, (rate, _) in cell["peers"].items()})
        ax.plot([min(rates.values()), peak], [y, y], "-", color="0.85", zorder=0)
        mark = ax.plot(peak, y, "|", color="0", ms=13, mew=2)[0]
        handles["FMA peak, products alone"] = mark
        for program, rate in rates.items():
            marker, colour = MARKS[program]
            handles[program] = ax.plot(
                rate,
                y + lanes[program],
                marker,
                mfc=colour,
                mec="0",
                ms=7,
                ls="none",
                zorder=4 if program == "cbp" else 3,
            )[0]
        others = [r for p, (_, r) in cell["peers"].items() if not p.startswith("cbp")]
        ax.annotate(
            times(min(others)) if others else "",
            (rates["cbp"], y),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    for row, n_threads in zip(axes, threads, strict=True):
        for ax, dtype in zip(row, dtypes, strict=True):
            ax.set_title(f"{dtype}, {n_threads} thread{'s' * (n_threads > 1)}")
            ax.set_xscale("log")
            if not ax.lines:
                ax.text(0.5, 0.5, "not measured", ha="center", transform=ax.transAxes)
            ax.grid(axis="x", color="0.9")
            ax.set_axisbelow(True)
    axes[0, 0].set_yticks(range(len(names)), [WORKLOADS[n].title for n in names])
    axes[0, 0].set_ylim(len(names) - 0.4, -0.6)
    figure.supxlabel(
        "samples per second (figure over cbp: how many times the fastest peer)"
    )
    order = [n for n in [*MARKS, "FMA peak, products alone"] if n in handles]
    figure.legend(
        [handles[n] for n in order], order, loc="outside upper center", ncols=3
    )
    figure.savefig(path, dpi=150)


def main():
    measure.refuse_slowed_peers()
    args = parse_arguments()
    if args.worker:
        work(args)
        return
    report = Report(
        "Training",
        args,
        measure.conditions(
            _kernels.isa(),
            f"medians of {args.rounds} runs of about {args.seconds:g} s, each process "
            "pinned to as many cores as threads",
            names=measure.PEERS,
        ),
    )
    table, pools, left_out, start = {}, {}, {}, time.time()
    for record in run_workers(args, left_out):
        if "pools" in record:
            pools.setdefault(record["peer"], set()).update(record["pools"])
            continue
        add(table, record)
        left_out.update(record["left_out"])
        cell, workload = cell_of(table, record), WORKLOADS[record["workload"]]
        name = PEERS[record["peer"]]
        say(
            f"{workload.title}, {record['dtype']}: cbp "
            f"{' '.join(show_cbp(cell, workload))}; {name} {show_peer(cell, name)}"
        )
    if not table:
        sys.exit("nothing could be measured; see above")
    for peer, found in pools.items():
        report.line(f"- thread pools beside {PEERS[peer]}: {'; '.join(sorted(found))}")
    peaks = {}
    for key, cell in table.items():
        peaks.setdefault(key[:2], []).extend(cell["peaks"])
    for (threads, dtype), found in peaks.items():
        peak = f"{median(found) / 1e9:.1f} GFLOP/s"
        report.line(f"- FMA peak, {dtype}, {threads} thread(s): {peak}")
    for reason in left_out.values():
        report.line(f"- {reason}")
    tell(table, report)
    picture = report.picture("results", "Training rates of all programs")
    if picture:
        draw(table, picture)
    report.write()
    say(f"{time.time() - start:.0f} s")
    if any(isinstance(key, tuple) for key in left_out):
        sys.exit("a process failed; see above")


if __name__ == "__main__":
    main()
