"""How far off may a prediction be? Quantiles in place of one number.

    python examples/prediction_intervals.py [--output FOLDER]

1. Made-up data whose noise is skewed and grows with x, so that the true quantiles are
   known. A network learns the quantiles 0.05, 0.5 and 0.95 at once: the band between
   the outer two should hold 90 % of new points, wherever x is. Beside it stands the
   usual band: a network that learns the mean, plus and minus 1.645 standard deviations
   of its errors.
2. The diabetes data: 442 patients, each predicted by a network that never saw them.

Prints the share of points in the bands and draws prediction_intervals.png (this needs:
pip install "cbp-learn[plot]").
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cbp import BPRegressor

LEVELS = (0.05, 0.5, 0.95)
WANTED = LEVELS[-1] - LEVELS[0]
DEVIATIONS = 1.645  # of a normal distribution: 90 % lie within so many


def inside(y, band):
    """Of each row, whether y lies between the first and the last column of its band."""
    return (band[:, 0] <= y) & (y <= band[:, -1])


def width(band):
    return band[:, -1] - band[:, 0]


# ---- 1. made-up data


def true_quantile(x, level):
    """A wave plus noise: exponential, with a mean that grows with x."""
    return np.sin(2 * x) + (0.1 + 0.25 * x) * -np.log1p(-level)


def make_data(n, rng):
    x = rng.uniform(0, 4, n)
    return x[:, None], true_quantile(x, rng.uniform(size=n))


def fit_network(X, y, loss, **more):
    network = BPRegressor(
        loss,
        hidden_layer_sizes=(32, 32),
        activation="tanh",
        learning_rate="cosine",
        learning_rate_init=0.003,
        max_iter=150,
        n_iter_no_change=np.inf,  # the schedule ends with the last epoch
        random_state=0,
        **more,
    )
    return make_pipeline(StandardScaler(), network).fit(X, y)


def fit_bands(X, y):
    """Two functions of X: the lower end of a band, its middle and its upper end."""
    quantiles = fit_network(X, y, "quantile", quantile=LEVELS)
    mean = fit_network(X, y, "squared_error")
    half = DEVIATIONS * np.std(y - mean.predict(X))
    return {
        "quantiles 0.05 to 0.95": quantiles.predict,
        "mean ± 1.645 deviations": lambda X: (
            mean.predict(X)[:, None] + [-half, 0, half]
        ),
    }


def print_made_up(bands, X, y):
    x = X[:, 0]
    print(
        f"1. Made-up data: share of {len(y)} new points in the band, which should be "
        f"{WANTED:.0%}\n\n{'':26}{'all':>8}"
        + "".join(f"{f'x in {low}-{low + 1}':>11}" for low in range(4))
    )
    farthest = {}
    for name, predict in bands.items():
        hits = inside(y, predict(X))
        shares = [hits[x.astype(int) == low].mean() for low in range(4)]
        print(f"{name:26}{hits.mean():8.1%}" + "".join(f"{s:11.1%}" for s in shares))
        farthest[name] = max(shares, key=lambda share: abs(share - WANTED))
    print()
    for name, share in farthest.items():
        print(f"{name}: in the worst quarter {share:.1%}.")
    predicted = bands["quantiles 0.05 to 0.95"](X)
    truth = np.column_stack([true_quantile(x, level) for level in LEVELS])
    errors = ", ".join(f"{e:.3f}" for e in np.mean(np.abs(predicted - truth), axis=0))
    print(
        f"The three learned quantiles are off by {errors} on average; the true band "
        f"is\n{width(truth).min():.2f} to {width(truth).max():.2f} wide.\n"
    )


# ---- 2. patients

ALPHA, LOOSE = 10, 0.1


def predict_patients(X, y, alpha):
    """The quantiles of each patient, by a network of the other nine tenths."""
    network = BPRegressor(
        "quantile",
        quantile=LEVELS,
        hidden_layer_sizes=(16,),
        activation="tanh",
        solver="lbfgs",
        alpha=alpha,
        max_iter=300,
        random_state=0,
    )
    model = make_pipeline(StandardScaler(), network)
    folds = KFold(10, shuffle=True, random_state=0)
    # The loss of a target near 1 is of the size that alpha is made for.
    return 100 * cross_val_predict(model, X, y / 100, cv=folds)


def print_patients(y, band, loose):
    hits, widths = inside(y, band), width(band)
    wide = widths > np.median(widths)
    blind = np.quantile(y, LEVELS)
    print(
        f"2. {len(y)} patients: the progress of {hits.mean():.1%} lies in their band. "
        f"Below it lie {np.mean(y < band[:, 0]):.1%},\n   above it "
        f"{np.mean(y > band[:, -1]):.1%}. Below the median lie "
        f"{np.mean(y < band[:, 1]):.1%}.\n"
        f"   Bands are {widths.min():.0f} to {widths.max():.0f} wide, "
        f"{widths.mean():.0f} on average. One band for everybody that holds\n"
        f"   {WANTED:.0%} would be {blind[-1] - blind[0]:.0f} wide.\n"
        f"   In the wider half of the bands lie {hits[wide].mean():.1%}, in the "
        f"narrower half {hits[~wide].mean():.1%}.\n"
        f"   This needs a strong penalty: with alpha={LOOSE} in place of {ALPHA} only "
        f"{inside(y, loose).mean():.1%} lie in\n   their band, whose "
        f"mean width is {width(loose).mean():.0f}.\n"
    )


# ---- picture

# Okabe and Ito's colours for colour-blind readers.
BAND, POINT, OUTSIDE = "#0072B2", "#666666", "#D55E00"


def draw_band(ax, name, predict, X, y, n_shown=800):
    hits = inside(y, predict(X))
    title = f"{hits.mean():.0%} inside; where x < 1, {hits[X[:, 0] < 1].mean():.0%}"
    X, y, hits = X[:n_shown], y[:n_shown], hits[:n_shown]
    grid = np.linspace(0, 4, 400)
    low, middle, high = predict(grid[:, None]).T
    ax.scatter(X[hits, 0], y[hits], s=5, color=POINT, alpha=0.5, linewidth=0)
    ax.scatter(X[~hits, 0], y[~hits], s=7, color=OUTSIDE, linewidth=0, label="outside")
    ax.fill_between(grid, low, high, color=BAND, alpha=0.25, linewidth=0)
    ax.plot(grid, middle, color=BAND, linewidth=2, label=name)
    for level in (LEVELS[0], LEVELS[-1]):
        label = "true quantiles 0.05, 0.95" if level == LEVELS[0] else None
        truth = true_quantile(grid, level)
        ax.plot(grid, truth, "--", color="black", linewidth=1, label=label)
    ax.set(title=title, xlabel="x", xlim=(0, 4), ylim=(-2, 7))
    ax.legend(loc="upper left")


def draw_patients(ax, y, band):
    order = np.argsort(band[:, 1])
    y, (low, middle, high), hits = y[order], band[order].T, inside(y, band)[order]
    place = np.arange(len(y))
    ax.vlines(place, low, high, color=BAND, alpha=0.3, linewidth=1)
    ax.plot(place, middle, color=BAND, linewidth=2, label="median, 0.05 to 0.95")
    ax.scatter(place[hits], y[hits], s=8, color=POINT, linewidth=0)
    ax.scatter(
        place[~hits], y[~hits], s=11, color=OUTSIDE, linewidth=0, label="outside"
    )
    ax.set(title=f"{len(y)} patients: {hits.mean():.0%} inside")
    ax.set(xlabel="patients, by predicted median", ylabel="progress of diabetes")
    ax.set(ylim=(0, 440))
    ax.legend(loc="upper left")


def draw(bands, X, y, patients, patient_band, folder):
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        print('No picture without matplotlib: pip install "cbp-learn[plot]"')
        return
    plt.switch_backend("agg")
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    for ax, (name, predict) in zip(axes[:2], bands.items(), strict=True):
        draw_band(ax, name, predict, X, y)
    axes[0].set_ylabel("y")
    draw_patients(axes[2], patients, patient_band)
    file = folder / "prediction_intervals.png"
    figure.savefig(file, dpi=110)
    print(f"wrote {file}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=Path(), help="folder of the picture"
    )
    arguments = parser.parse_args()
    # Here max_iter may end a fit; the bands show whether that was too early.
    warnings.simplefilter("ignore", ConvergenceWarning)
    rng = np.random.default_rng(0)
    bands = fit_bands(*make_data(3000, rng))
    X, y = make_data(10_000, rng)
    print_made_up(bands, X, y)
    inputs, progress = load_diabetes(return_X_y=True)
    patient_band = predict_patients(inputs, progress, ALPHA)
    loose_band = predict_patients(inputs, progress, LOOSE)
    print_patients(progress, patient_band, loose_band)
    draw(bands, X, y, progress, patient_band, arguments.output)


if __name__ == "__main__":
    main()
