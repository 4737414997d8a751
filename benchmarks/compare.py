"""Training speed of cbp beside its peers: one table, one picture.

    python benchmarks/compare.py             half an hour, all installed peers
    python benchmarks/compare.py --quick     scikit-learn only, under three minutes

The full form writes results.md and results.png beside this file.
Per peer and number of threads one process, pinned to as many cores; in it cbp and the
peer train in turn, always from the same initial weights. A rate is samples per second
of a whole training run (cbp, scikit-learn: `fit`) that lasts a set time; the loss is
taken after the same number of epochs for all. What the programs are: peers.py.
"""

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import measure
from peers import PEERS, Cbp, log_loss, sklearn_orders
from workloads import WORKLOADS

from cbp import _kernels

DISTRIBUTIONS = ["scikit-learn", "numpy", "scipy", "torch", "jax"]
# Marker and grey level per program: readable without colour.
MARKERS = {
    "cbp": ("o", "0.0"),
    "scikit-learn": ("s", "1.0"),
    "PyTorch eager": ("v", "0.8"),
    "PyTorch compiled": ("^", "0.45"),
    "JAX": ("D", "0.65"),
}
NOTES = """\
Cells of peers: thousand samples per second / loss / cbp is how many times as fast.
The ratio is the median over rounds of runs that alternate in one process; cbp's rate is
the median over all its runs. Loss: mean log loss on the training rows after the given
number of epochs, computed from everyone's weights by the same float64 code. Peak: share
of the measured FMA peak of the cores in use, counting the matrix products alone.

No peer runs another algorithm: all train by Adam with the same rate, L2 penalty, batch
size and initial weights, and for the loss in the same order of rows too, so that losses
differ only by rounding and by where PyTorch's eager Adam adds epsilon. In timed runs
PyTorch and JAX shuffle in their own, faster way.
Two classes (W1) are one logistic output everywhere. PyTorch and JAX are timed without
compiling; cbp and scikit-learn with all that `fit` does.
"""


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def names(text):
        return text.split(",")

    parser.add_argument(
        "--quick", action="store_true", help="short runs; nothing is written"
    )
    parser.add_argument(
        "--peers",
        type=names,
        help=f"of {','.join(PEERS)} (default: all here; quick: first)",
    )
    cores = len(measure.CORES or [0])
    parser.add_argument("--threads", type=names, default=["1", "2"][:cores])
    parser.add_argument(
        "--dtype",
        type=names,
        help="default: float64,float32 beside scikit-learn, float32 beside the others",
    )
    parser.add_argument("--workloads", type=names, default=list(WORKLOADS))
    parser.add_argument(
        "--rounds", type=int, help="runs of each program (default 7; quick: 5)"
    )
    parser.add_argument(
        "--seconds", type=float, help="per run, at least (default 1; quick: 0.1)"
    )
    parser.add_argument(
        "--output", help="name.md and name.png are written (default results; quick: -)"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    installed = [peer for peer in PEERS if importlib.util.find_spec(peer)]
    args.peers = args.peers or installed[: 1 if args.quick else None]
    args.rounds = args.rounds or (5 if args.quick else 7)
    args.seconds = args.seconds or (0.1 if args.quick else 1.0)
    args.output = args.output or (None if args.quick else "results")
    for given, known in [(args.peers, installed), (args.workloads, WORKLOADS)]:
        if unknown := set(given) - set(known):
            parser.error(f"{sorted(unknown)}: valid here are {list(known)}")
    return args


# ---- one process: cbp and one peer ------------------------------------------------


def work(args):
    """Print one line of JSON per workload and dtype, and a last one on the pools."""
    n_threads = int(args.threads[0])
    for dtype in args.dtype:
        peak = measure.Peak(_kernels.isa(), dtype)
        for name in args.workloads:
            workload = WORKLOADS[name]
            record = {"workload": name, "dtype": dtype, "threads": n_threads}
            record.update(time_programs(workload, dtype, n_threads, peak, args))
            print(json.dumps(record), flush=True)
    print(json.dumps({"pools": measure.blas_kernels()}), flush=True)


def time_programs(workload, dtype, n_threads, peak, args):
    X, y = workload.load(dtype)
    orders = sklearn_orders(workload, workload.epochs)
    programs, losses, epochs = {}, {}, {}
    for name, program in {"cbp": Cbp, **PEERS[args.worker]}.items():
        try:
            train = program(workload, X, y, n_threads).train
            weights = train(workload.epochs, orders)  # and all that compiles late
            losses[name] = log_loss(workload, *weights, X, y)
        except Exception as error:  # a peer that cannot run here is left out
            if name == "cbp":
                raise
            print(f"{name} left out of {workload.name}: {error!r}", file=sys.stderr)
            continue
        programs[name] = train
        epochs[name] = epochs_lasting(train, args.seconds)

    actions = {
        name: lambda train=train, n=epochs[name]: train(n)
        for name, train in programs.items()
    }
    peaks = []
    actions["peak"] = lambda: peaks.append(peak.measure(n_threads))
    seconds = measure.alternate(actions, args.rounds)
    return {
        "rates": {
            name: [workload.rows * epochs[name] / s for s in seconds[name]]
            for name in programs
        },
        "losses": losses,
        "epochs": epochs,
        "peak": median(peaks),
    }


def epochs_lasting(train, seconds):
    """How many epochs take that long, at least one."""
    epochs = 1
    while True:
        start = time.perf_counter()
        train(epochs)
        taken = time.perf_counter() - start
        if taken >= seconds / 2:
            return max(1, round(epochs * seconds / taken))
        epochs = math.ceil(epochs * min(10, seconds / taken))


# ---- all processes, and the report ------------------------------------------------


def run_workers(args):
    """Yield the records of every peer and number of threads."""
    for threads in args.threads:
        pinned = measure.pin(int(threads))  # the worker inherits it
        for peer in args.peers:
            dtypes = args.dtype or (
                ["float64", "float32"] if peer == "sklearn" else ["float32"]
            )
            print(f"-- cbp and {peer}, {threads} thread(s), {pinned}", flush=True)
            options = {
                "--worker": peer,
                "--threads": threads,
                "--dtype": ",".join(dtypes),
                "--workloads": ",".join(args.workloads),
                "--rounds": str(args.rounds),
                "--seconds": str(args.seconds),
            }
            command = [sys.executable, __file__]
            for name, value in options.items():
                command += [name, value]
            # The worker's threads also see the cores it may use, which is what XLA
            # and cbp go by; on one core XLA is told to keep its products on it.
            environment = {
                **os.environ,
                **dict.fromkeys(measure.THREAD_VARIABLES, threads),
            }
            if threads == "1":
                environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
            with subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, text=True
            ) as worker:
                for line in worker.stdout:
                    if line.startswith("{"):
                        yield {"peer": peer, **json.loads(line)}
            if worker.returncode:
                sys.exit(f"the worker for {peer} failed; see above")


def cell_of(table, record):
    """The cell of a record's workload, dtype and threads, made on first use."""
    key = record["threads"], record["dtype"], record["workload"]
    return table.setdefault(key, {"cbp": [], "peaks": [], "loss": {}, "peers": {}})


def add(table, record):
    """Enter one record; cbp's runs beside every peer come together."""
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


def show_peer(cell, name):
    if name not in cell["peers"]:
        return "–"
    rate, ratio = cell["peers"][name]
    times = f"{ratio:.0f}" if ratio >= 100 else f"{ratio:.3g}"
    return f"{show(rate)} / {cell['loss'][name]:.4f} / **{times}×**"


def share_of_peak(cell, workload, threads):
    share = median(cell["cbp"]) * workload.flops / median(cell["peaks"])
    return "–" if math.isnan(share) else f"{share:.0%}"


def markdown(table, conditions):
    """The report as text."""
    programs = [
        name for name in MARKERS if any(name in c["peers"] for c in table.values())
    ]
    head = ["workload", "threads", "dtype", "rows", "epochs", "cbp k/s", "peak", "loss"]
    lines = ["# cbp beside its peers", "", *[f"- {line}" for line in conditions], ""]
    lines += ["| " + " | ".join([*head, *programs]) + " |"]
    lines += ["|" + "---|" * (len(head) + len(programs))]
    for (threads, dtype, name), cell in table.items():
        workload = WORKLOADS[name]
        row = [
            workload.title,
            str(threads),
            dtype,
            f"{workload.rows} {workload.source}",
            str(workload.epochs),
            f"**{show(median(cell['cbp']))}**",
            share_of_peak(cell, workload, threads),
            f"{cell['loss']['cbp']:.4f}",
            *[show_peer(cell, program) for program in programs],
        ]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join([*lines, "", NOTES])


def draw(table, path):
    """Rates of all programs on a log axis, a panel per dtype and number of threads."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    threads = sorted({key[0] for key in table})
    dtypes = sorted({key[1] for key in table}, reverse=True)
    names = [name for name in WORKLOADS if any(key[2] == name for key in table)]
    figure, axes = plt.subplots(
        len(threads),
        len(dtypes),
        figsize=(1.5 + 5 * len(dtypes), 1.6 + (0.6 + 0.42 * len(names)) * len(threads)),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    handles = {}
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
            marker, grey = MARKERS[program]
            handles[program] = ax.plot(
                rate,
                y,
                marker,
                mfc=grey,
                mec="0",
                ms=8,
                ls="none",
                zorder=4 if program == "cbp" else 3,
            )[0]
        best = min((ratio for _, ratio in cell["peers"].values()), default=math.nan)
        ax.annotate(
            f"{best:.3g}×",
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
            ax.grid(axis="x", color="0.9")
            ax.set_axisbelow(True)
    axes[0, 0].set_yticks(range(len(names)), [WORKLOADS[n].title for n in names])
    axes[0, 0].set_ylim(len(names) - 0.5, -0.7)
    figure.supxlabel(
        "samples per second (figure over cbp: how many times the fastest peer)"
    )
    order = [n for n in [*MARKERS, "FMA peak, products alone"] if n in handles]
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
    busy = measure.busy()
    if busy:
        print(busy, file=sys.stderr)
    command = "python benchmarks/compare.py " + " ".join(sys.argv[1:])
    conditions = [
        *measure.conditions(_kernels.isa(), DISTRIBUTIONS),
        f"`{command.strip()}`: medians of {args.rounds} runs of about "
        f"{args.seconds:g} s, each process pinned to as many cores as threads",
        *([busy] if busy else []),
    ]
    table, pools, start = {}, {}, time.time()
    for record in run_workers(args):
        if "pools" in record:
            pools.setdefault(record["peer"], []).extend(record["pools"])
            continue
        add(table, record)
        cell, workload = cell_of(table, record), WORKLOADS[record["workload"]]
        peers = "; ".join(
            f"{name} {show_peer(cell, name)}" for name in PEERS[record["peer"]]
        )
        print(
            f"{workload.title}, {record['dtype']}: cbp {show(median(cell['cbp']))} "
            f"({share_of_peak(cell, workload, record['threads'])} of peak) / "
            f"{cell['loss']['cbp']:.4f}; {peers}",
            flush=True,
        )
    for peer, found in pools.items():
        conditions.append(
            f"thread pools beside {peer}: {'; '.join(sorted(set(found)))}"
        )
    peaks = {key[:2]: median(cell["peaks"]) for key, cell in table.items()}
    for (threads, dtype), peak in peaks.items():
        conditions.append(
            f"FMA peak, {dtype}, {threads} thread(s): {peak / 1e9:.1f} GFLOP/s"
        )
    text = markdown(table, conditions)
    print(f"\n{text}\n{time.time() - start:.0f} s")
    if args.output:
        folder = Path(__file__).parent
        (folder / f"{args.output}.md").write_text(text, "utf-8")
        draw(table, folder / f"{args.output}.png")


if __name__ == "__main__":
    main()
