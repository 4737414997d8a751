"""When to stop? A validation set of your own, for rows that have an order in time.

    python examples/own_validation_set.py [--output FOLDER]

Predicts the electricity that a made-up town needs from hour, temperature and other
weather. Something that is not among the inputs changes slowly, too. So an hour is much
like the hours around it, and a network can learn by heart what was when. Rows that are
held out at random do not notice: their neighbours are trained on. The rows of the last
months do.

The program trains a network twice, with early stopping by the loss of 1,500 rows: once
drawn at random, once the last ones (`fit(X, y, X_val=..., y_val=...)`). Then it looks
at the 2,000 hours that come after all of these. A History notes every epoch, and a
GradientAlarm listens. At the end the alarm listens to a network that is ill.

Draws own_validation_set.png (this needs: pip install "cbp-learn[plot]").
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
from scipy.signal import lfilter
from sklearn.preprocessing import StandardScaler

from cbp import BPRegressor
from cbp.callbacks import GradientAlarm, History

N_TRAIN, N_VALIDATION, N_FUTURE = 4500, 1500, 2000
N_KNOWN = N_TRAIN + N_VALIDATION


def slow(n, rng):
    """A series of mean 0 and variance 1 that takes some three days to forget."""
    memory = 0.985
    noise = rng.standard_normal(n) * np.sqrt(1 - memory**2)
    return lfilter([1], [1, -memory], noise)


def make_town(rng):
    """Hour by hour: inputs, and electricity in megawatts."""
    n = N_KNOWN + N_FUTURE
    day = 2 * np.pi * np.arange(n) / 24
    temperature = 12 + 5 * slow(n, rng) + 3 * np.sin(day - 2.4)
    wind, pressure, humidity, unseen = (slow(n, rng) for _ in range(4))
    y = 50 + 0.08 * (temperature - 16) ** 2 + 1.5 * wind + 5 * unseen
    y += 6 * np.sin(day - 2.1) + 4 * np.sin(2 * day - 3.1) + rng.standard_normal(n)
    X = [temperature, wind, pressure, humidity, np.sin(day), np.cos(day)]
    return np.column_stack(X), y


def network(**more):
    return BPRegressor(
        hidden_layer_sizes=(64, 64),
        alpha=0,
        learning_rate_init=0.002,
        max_iter=300,
        random_state=0,
        **more,
    )


def train(X, y, train_rows, held_rows):
    """Early stopping by the held rows, and what the future would have said to it."""
    history, alarm = History(), GradientAlarm()
    model = network(early_stopping=True, scoring="loss", n_iter_no_change=20)
    model.set_callbacks(history, alarm).fit(
        X[train_rows], y[train_rows], X_val=X[held_rows], y_val=y[held_rows]
    )
    # Without early stopping, a validation set is only looked at: the same training.
    future = History()
    watched = network(n_iter_no_change=np.inf).set_params(max_iter=model.n_iter_)
    with warnings.catch_warnings(action="ignore"):  # that it ended before it converged
        watched.set_callbacks(future).fit(
            X[train_rows], y[train_rows], X_val=X[N_KNOWN:], y_val=y[N_KNOWN:]
        )
    assert watched.loss_curve_ == model.loss_curve_
    return {
        "model": model,
        "alarm": alarm,
        "table": history.table(),
        "future": future.table()["validation_loss"],
    }


def error(loss):
    """The loss is half the mean square; its root is easier to judge."""
    return np.sqrt(2 * loss)


def experiment(X, y, scale):
    rows = np.random.default_rng(1).permutation(N_KNOWN)
    in_time = np.arange(N_KNOWN)
    runs = {
        "at random": train(X, y, rows[:N_TRAIN], rows[N_TRAIN:]),
        "the last ones": train(X, y, in_time[:N_TRAIN], in_time[N_TRAIN:]),
    }
    for run in runs.values():
        best = run["model"].best_iter_ - 1
        run["promised"] = scale * error(run["table"]["validation_loss"][best])
        run["came"] = scale * error(run["future"][best])
        run["least"] = scale * error(run["future"].min())
    return runs


def print_runs(runs, y):
    print(
        f"{N_TRAIN} hours to train on, {N_VALIDATION} held out, {N_FUTURE} hours of "
        f"the future.\nElectricity: {y.mean():.0f} megawatts, standard deviation "
        f"{y.std():.1f}. Errors below are root mean squares.\n\n{'held out':16}"
        f"{'epochs':>8}{'best':>6}{'error promised':>17}{'in the future':>16}"
        f"{'best epoch for it':>20}"
    )
    for name, run in runs.items():
        model = run["model"]
        print(
            f"{name:16}{model.n_iter_:8}{model.best_iter_:6}{run['promised']:14.2f} MW"
            f"{run['came']:13.2f} MW{np.argmin(run['future']) + 1:9}, "
            f"{run['least']:.2f} MW"
        )
    print()
    for name, run in runs.items():
        more = run["came"] / run["promised"] - 1
        print(
            f"Held out {name}: the future's error is {abs(more):.0%} "
            f"{'larger' if more > 0 else 'smaller'} than promised."
        )
    best = [run["model"].best_iter_ for run in runs.values()]
    came = [run["came"] for run in runs.values()]
    quiet = all(run["alarm"].finding is None for run in runs.values())
    print(
        f"By the random rows epoch {best[0]} is the best, by the last ones epoch "
        f"{best[1]}. With the last ones\nthe future's error is "
        f"{abs(1 - came[1] / came[0]):.0%} "
        f"{'smaller' if came[1] < came[0] else 'larger'}.\n"
        f"The alarm {'was silent in both fits' if quiet else 'stopped a fit'}."
    )


def print_ill(X, y):
    """A network whose first layers do not learn."""
    alarm = GradientAlarm()
    ill = network(early_stopping=True, scoring="loss", n_iter_no_change=20)
    ill.set_params(hidden_layer_sizes=[32] * 6, activation="logistic")
    with warnings.catch_warnings(action="ignore"):  # it warns, and we print
        ill.set_callbacks(alarm).fit(
            X[:N_TRAIN], y[:N_TRAIN], X_val=X[N_TRAIN:N_KNOWN], y_val=y[N_TRAIN:N_KNOWN]
        )
    print("\nSix logistic layers, the same rows: ", end="")
    if alarm.finding is None:
        print(f"no alarm in {ill.n_iter_} epochs.\n")
        return
    print(
        f"the alarm stopped the fit after epoch {alarm.epoch}.\n"
        f"  {alarm.finding.code}: {alarm.finding.message}\n"
        f"  Try {alarm.finding.advice}.\n"
    )


# ---- picture

# Okabe and Ito's colours for colour-blind readers; in grey the dashes differ.
LOOKS = {
    "training": {"color": "#666666", "linestyle": ":"},
    "held out": {"color": "#0072B2", "linestyle": "-"},
    "future": {"color": "#D55E00", "linestyle": "--"},
}


def draw_run(ax, name, run, scale):
    table, best = run["table"], run["model"].best_iter_
    curves = [table["loss"], table["validation_loss"], run["future"]]
    for (label, look), loss in zip(LOOKS.items(), curves, strict=True):
        ax.plot(table["epoch"], scale * error(loss), label=label, **look)
    ax.axvline(best, color="black", linewidth=0.8)
    ax.plot(best, run["promised"], "o", color=LOOKS["held out"]["color"])
    ax.plot(best, run["came"], "s", color=LOOKS["future"]["color"])
    left = best > table["epoch"][-1] / 2
    ax.annotate(
        f"best epoch {best}:\npromised {run['promised']:.2f} MW\n"
        f"future {run['came']:.2f} MW",
        (best, 0.97),
        xycoords=("data", "axes fraction"),
        xytext=(-6 if left else 6, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
    )
    ax.set(xlabel="epoch", title=f"Held-out rows: {name}")
    ax.set_xlim(0, table["epoch"][-1])


def draw_series(ax, y):
    day = np.arange(len(y)) / 24
    spans = [0, N_TRAIN, N_KNOWN, len(y)]
    for (label, look), start, end in zip(LOOKS.items(), spans, spans[1:], strict=False):
        rows = slice(start, end)
        ax.plot(day[rows], y[rows], color=look["color"], linewidth=0.4)
        ax.text((day[start] + day[end - 1]) / 2, 96, label, ha="center", va="top")
    ax.set(xlabel="day", ylabel="electricity in MW", xlim=(0, day[-1]))
    ax.set(ylim=(None, 98), title="Hour by hour, split in order of time")


def draw(runs, y, scale, folder):
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        print('No picture without matplotlib: pip install "cbp-learn[plot]"')
        return
    plt.switch_backend("agg")
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    draw_series(axes[0], y)
    for ax, (name, run) in zip(axes[1:], runs.items(), strict=True):
        draw_run(ax, name, run, scale)
    axes[2].sharey(axes[1])
    axes[1].set_ylabel("error in MW (root mean square)")
    axes[1].legend(loc=(0.08, 0.72))
    file = folder / "own_validation_set.png"
    figure.savefig(file, dpi=110)
    print(f"wrote {file}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=Path(), help="folder of the picture"
    )
    arguments = parser.parse_args()
    X, megawatts = make_town(np.random.default_rng(2))
    X = StandardScaler().fit(X[:N_KNOWN]).transform(X)
    scale = megawatts[:N_KNOWN].std()
    y = (megawatts - megawatts[:N_KNOWN].mean()) / scale
    runs = experiment(X, y, scale)
    print_runs(runs, megawatts)
    print_ill(X, y)
    draw(runs, megawatts, scale, arguments.output)


if __name__ == "__main__":
    main()
