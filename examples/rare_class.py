"""Two rows in a hundred: what class_weight and the focal loss do for a rare class.

    python examples/rare_class.py [--output FOLDER]

Trains networks that differ only in their loss: plain log loss, class_weight="balanced",
and the focal loss (focal_gamma=2). Each is trained on ten splits of made-up data. What
counts is the average precision on rows that it never saw: how well it puts rows of the
rare class in front of the others, whatever the threshold is. Beside it stands what
`predict` makes of that, at its threshold of one half, and what the plain network makes
of a threshold that was chosen on training rows that it was not trained on.

Prints tables and draws rare_class.png (this needs: pip install "cbp-learn[plot]").
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_recall_curve,
    precision_score,
    recall_score,
)
from sklearn.model_selection import train_test_split

from cbp import BPClassifier

LOSSES = {
    "plain": {},
    'class_weight="balanced"': {"class_weight": "balanced"},
    "focal_gamma=2": {"focal_gamma": 2.0},
}
SPLITS = range(10)
PLAIN = "plain"


def network(seed, loss):
    return BPClassifier(
        hidden_layer_sizes=(32, 16),
        alpha=0.01,
        learning_rate="cosine",
        learning_rate_init=0.003,
        max_iter=60,
        n_iter_no_change=np.inf,  # the schedule ends with the last epoch
        random_state=seed,
        **loss,
    )


def best_threshold(X, y, seed):
    """The threshold of the best F1 on a fifth of the training rows, held out."""
    X, X_held, y, y_held = train_test_split(
        X, y, test_size=0.2, stratify=y, random_state=seed
    )
    p = network(seed, LOSSES[PLAIN]).fit(X, y).predict_proba(X_held)[:, 1]
    precision, recall, thresholds = precision_recall_curve(y_held, p)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return thresholds[np.argmax(f1[:-1])]


def measure(y, p, threshold):
    said = p >= threshold
    return {
        "threshold": threshold,
        "average precision": average_precision_score(y, p),
        "recall": recall_score(y, said),
        "precision": precision_score(y, said, zero_division=0),
        "F1": f1_score(y, said, zero_division=0),
        "mean p": p.mean(),
        "y": y,
        "p": p,
    }


def experiment(X, y):
    """A dict of lists: of each loss, and of the moved threshold, one for each split."""
    results = {name: [] for name in [*LOSSES, "plain, moved threshold"]}
    for seed in SPLITS:
        X_train, X_test, y_train, y_test = train_test_split(
            X, y, test_size=0.5, stratify=y, random_state=seed
        )
        for name, loss in LOSSES.items():
            model = network(seed, loss).fit(X_train, y_train)
            p = model.predict_proba(X_test)[:, 1]
            results[name].append(measure(y_test, p, 0.5))
        p = results[PLAIN][-1]["p"]
        threshold = best_threshold(X_train, y_train, seed)
        results["plain, moved threshold"].append(measure(y_test, p, threshold))
    return results


def column(results, name, key):
    return np.array([result[key] for result in results[name]])


def print_results(results, share):
    keys = ["average precision", "threshold", "recall", "precision", "F1", "mean p"]
    print(
        f"Means of {len(SPLITS)} splits; the rare class is {share:.1%} of the rows\n\n"
        f"{'':26}" + "".join(f"{key:>{max(11, len(key) + 2)}}" for key in keys)
    )
    for name in results:
        means = [column(results, name, key).mean() for key in keys]
        cells = (
            f"{mean:{max(11, len(key) + 2)}.3f}"
            for key, mean in zip(keys, means, strict=True)
        )
        print(f"{name:26}" + "".join(cells))
    print("(mean p is the mean of the predicted probabilities of the rare class)\n")


def print_verdict(results):
    """Differences on the same splits, with their standard error."""
    for name in list(LOSSES)[1:]:
        gain = column(results, name, "average precision")
        gain = gain - column(results, PLAIN, "average precision")
        error = gain.std(ddof=1) / np.sqrt(len(gain))
        if abs(gain.mean()) < 2 * error:
            verdict = "no clear difference"
        else:
            verdict = "better" if gain.mean() > 0 else "worse"
        print(
            f"{name}: average precision {gain.mean():+.3f} ± {error:.3f} beside plain: "
            f"{verdict}."
        )
    recall = {name: column(results, name, "recall").mean() for name in results}
    f1 = {name: column(results, name, "F1").mean() for name in results}
    best = max(f1, key=f1.get)
    balanced = 'class_weight="balanced"'
    print(
        f"`predict` finds {recall[balanced]:.0%} of the rare rows with {balanced}, "
        f"{recall[PLAIN]:.0%} without. But of the\nrows that it then calls rare, only "
        f"{column(results, balanced, 'precision').mean():.0%} are "
        f"({column(results, PLAIN, 'precision').mean():.0%} without).\n"
        f"The best F1, {f1[best]:.3f}, has: {best}.\n"
    )


# ---- picture

# Okabe and Ito's colours for colour-blind readers; in grey the dashes differ.
LOOKS = {
    "plain": {"color": "#0072B2", "linestyle": "-"},
    'class_weight="balanced"': {"color": "#D55E00", "linestyle": "--"},
    "focal_gamma=2": {"color": "#009E73", "linestyle": "-."},
    "plain, moved threshold": {"color": "#0072B2"},
}


def mean_curve(results, name, recall):
    """Precision at each recall, the mean over the splits."""
    curves = []
    for result in results[name]:
        precisions, recalls, _ = precision_recall_curve(result["y"], result["p"])
        curves.append(np.interp(recall, recalls[::-1], precisions[::-1]))
    return np.mean(curves, axis=0)


def draw_curves(ax, results, share):
    recall = np.linspace(0.02, 1, 200)
    for name in LOSSES:
        ap = column(results, name, "average precision").mean()
        label = f"{name}: AP {ap:.3f}"
        ax.plot(recall, mean_curve(results, name, recall), label=label, **LOOKS[name])
    for name in results:
        moved = name not in LOSSES
        ax.plot(
            column(results, name, "recall").mean(),
            column(results, name, "precision").mean(),
            marker="*" if moved else "o",
            markersize=15 if moved else 9,
            color=LOOKS[name]["color"],
            markeredgecolor="black",
            linestyle="",
            zorder=3,
        )
    marks = {"marker": "o", "color": "white", "markeredgecolor": "black"}
    ax.plot([], [], linestyle="", markersize=9, label="predict: threshold ½", **marks)
    marks["marker"] = "*"
    ax.plot(
        [], [], linestyle="", markersize=15, label="plain, moved threshold", **marks
    )
    ax.axhline(share, color="black", linewidth=0.8)
    ax.text(0.01, share + 0.01, "guessing", va="bottom")
    ax.set(xlabel="recall: share of rare rows found", xlim=(0, 1), ylim=(0, 1.02))
    ax.set(ylabel="precision: share of found rows that are rare")
    ax.set_title(f"Precision and recall, mean of {len(SPLITS)} splits")
    ax.legend(loc="upper right")


def draw_measures(ax, results):
    """What the curves and the points of the first picture are worth."""
    for i, (name, look) in enumerate(LOOKS.items()):
        moved = name not in LOSSES
        # A threshold does not change the average precision.
        keys = ["F1"] if moved else ["F1", "average precision"]
        means = [column(results, name, key).mean() for key in keys]
        errors = [column(results, name, key).std(ddof=1) for key in keys]
        bars = ax.bar(
            np.arange(len(keys)) + (i - 1.5) * 0.2,
            means,
            0.18,
            yerr=errors,
            color=look["color"],
            hatch="//" if moved else None,
            edgecolor="white" if moved else None,
            label=name,
        )
        ax.bar_label(bars, fmt="%.2f", padding=2)
    ax.set_xticks(
        [0, 0.9], ["F1:\none threshold", "average precision:\nall thresholds"]
    )
    ax.set(ylim=(0, 0.7), title="One threshold, and all of them")
    ax.set_ylabel("mean and standard deviation of the splits")
    ax.legend(loc="upper center", ncols=2)


def draw(results, share, folder):
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        print('No picture without matplotlib: pip install "cbp-learn[plot]"')
        return
    plt.switch_backend("agg")
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    draw_curves(axes[0], results, share)
    draw_measures(axes[1], results)
    file = folder / "rare_class.png"
    figure.savefig(file, dpi=110)
    print(f"wrote {file}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=Path(), help="folder of the picture"
    )
    arguments = parser.parse_args()
    # Here max_iter always ends a fit, so the warning says nothing new.
    warnings.simplefilter("ignore", ConvergenceWarning)
    X, y = make_classification(
        20_000,
        n_features=12,
        n_informative=6,
        n_redundant=2,
        n_clusters_per_class=3,
        weights=[0.98],
        flip_y=0.005,
        random_state=7,
    )
    results = experiment(X, y)
    print_results(results, y.mean())
    print_verdict(results)
    draw(results, y.mean(), arguments.output)


if __name__ == "__main__":
    main()
