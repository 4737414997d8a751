"""All activations side by side: accuracy, time, and the error that comes back.

    python examples/activations_compared.py [--output FOLDER]

Trains networks of six hidden layers on the digits set, one kind for each activation.
All else is the same; each kind is trained on five splits. Prints the accuracy on images
held out, the processor time of a fit, and how much of the output's error arrives in the
first hidden layer during the first epoch (docs/backpropagation.md, equation 3.7). Where
hardly any arrives, the gradient is as small, and the layer learns next to nothing. A
learning rate that suits one activation suits another less: this is no ranking for all
time.

Draws activations_compared.png (this needs: pip install "cbp-learn[plot]").
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from cbp import BPClassifier

# "sigmoid" is another name of "logistic", and "swish" of "silu".
ACTIVATIONS = [
    "identity",
    "logistic",
    "tanh",
    "relu",
    "leaky_relu",
    "elu",
    "selu",
    "softplus",
    "gelu",
    "silu",
    "mish",
]
N_LAYERS, WIDTH, N_EPOCHS = 6, 32, 30
SPLITS = range(5)


def measure(activation, X, y):
    """Accuracies, seconds, and the error of each layer beside that of the output."""
    scores, seconds, errors = [], [], []
    for seed in SPLITS:
        X_train, X_test, y_train, y_test = train_test_split(
            X, y, stratify=y, random_state=seed
        )
        model = BPClassifier(
            hidden_layer_sizes=[WIDTH] * N_LAYERS,
            activation=activation,
            batch_size=32,
            max_iter=N_EPOCHS,
            random_state=seed,
        )
        start = time.process_time()
        model.fit(X_train, y_train)
        seconds.append(time.process_time() - start)
        scores.append(model.score(X_test, y_test))
        errors.append(model.gradient_flow_.relative_error[0])
    return {
        "scores": np.array(scores),
        "seconds": np.median(seconds),
        "error": np.exp(np.mean(np.log(errors), axis=0)),
    }


def print_results(results):
    print(
        f"Digits, {N_LAYERS} hidden layers of {WIDTH} units, {N_EPOCHS} epochs of "
        f"Adam, {len(SPLITS)} splits\n\n{'':12}{'accuracy':>9}{'worst to best':>18}"
        f"{'seconds':>10}{'error left in layer 1':>24}"
    )
    for name, result in results.items():
        scores = result["scores"]
        print(
            f"{name:12}{scores.mean():9.3f}{scores.min():>10.3f} - {scores.max():.3f}"
            f"{result['seconds']:10.3f}{result['error'][0]:24.5f}"
        )
    mean = {name: result["scores"].mean() for name, result in results.items()}
    left = {name: result["error"][0] for name, result in results.items()}
    seconds = {name: result["seconds"] for name, result in results.items()}
    best, worst = max(mean, key=mean.get), min(mean, key=mean.get)
    least, most = min(left, key=left.get), max(left, key=left.get)
    fast, slow = min(seconds, key=seconds.get), max(seconds, key=seconds.get)
    spread = np.mean([result["scores"].std(ddof=1) for result in results.values()])
    near = [name for name in mean if mean[name] > mean[best] - spread]
    print(
        f"\n{best} reads most, {mean[best]:.1%}, {worst} least, {mean[worst]:.1%} "
        "(guessing: 10%).\n"
        f"From split to split accuracy varies by {spread:.1%} (standard deviation). "
        f"Within that of the\nbest: {', '.join(near)}.\n"
        f"The error loses most with {least}: 1/{1 / left[least]:.0f} is left in layer "
        f"1. It loses least, or\ngrows most, with {most}: {left[most]:.2f} times.\n"
        f"A fit with {slow} takes {seconds[slow] / seconds[fast]:.1f} times as long as "
        f"with {fast}.\n"
    )


# ---- picture

# Okabe and Ito's blue.
COLOR = "#0072B2"


def draw_scores(ax, i, scores):
    """The share of new images that each split misread, and the mean accuracy."""
    misread = 1 - scores
    ax.plot(misread, [i] * len(misread), "o", color=COLOR, alpha=0.35, linewidth=0)
    ax.plot(misread.mean(), i, "|", color="black", markersize=14, markeredgewidth=2)
    few = misread.mean() < 0.3
    ax.annotate(
        f"{scores.mean():.1%}",
        (misread.max() if few else misread.min(), i),
        xytext=(8 if few else -8, 0),
        textcoords="offset points",
        va="center",
        ha="left" if few else "right",
    )


def draw_errors(figure, ax, results):
    """A row for each activation, a column for each layer, the input's on the left."""
    logs = np.log10([result["error"] for result in results.values()])
    image = ax.imshow(logs, cmap="viridis", aspect="auto", vmin=-4, vmax=0)
    for i, row in enumerate(logs):
        for j, value in enumerate(row):
            color = "white" if value < -1.6 else "black"
            text = f"{10**value:.2g}" if value > -3 else f"{10**value:.0e}"
            ax.text(j, i, text, ha="center", va="center", color=color, fontsize=8)
    ax.set_xticks(range(N_LAYERS + 1), [*range(1, N_LAYERS + 1), "output"])
    ax.set(xlabel="layer", title="Error beside that of the output, first epoch")
    bar = figure.colorbar(image, ax=ax, extend="both")
    bar.set_ticks(
        [-4, -3, -2, -1, 0], labels=["1/10000", "1/1000", "1/100", "1/10", "1"]
    )


def draw(results, folder):
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        print('No picture without matplotlib: pip install "cbp-learn[plot]"')
        return
    plt.switch_backend("agg")
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(
        1,
        3,
        figsize=(13, 4.6),
        layout="constrained",
        sharey=True,
        width_ratios=[1, 0.8, 1.5],
    )
    place = np.arange(len(results))
    for i, result in enumerate(results.values()):
        draw_scores(axes[0], i, result["scores"])
    axes[0].axvline(0.9, color="black", linewidth=0.8)
    axes[0].set(xscale="log", xlim=(0.018, 1), xlabel="misread (line: guessing)")
    ticks = [0.02, 0.05, 0.1, 0.2, 0.5]
    axes[0].set_xticks(ticks, [f"{tick:.0%}" for tick in ticks])
    axes[0].minorticks_off()
    axes[0].set_title(f"Accuracy: mean of {len(SPLITS)} splits")
    axes[0].set_yticks(place, results)
    seconds = [1000 * result["seconds"] for result in results.values()]
    bars = axes[1].barh(place, seconds, color=COLOR)
    axes[1].bar_label(bars, fmt="%.0f", padding=3)
    axes[1].set(xlim=(0, 1.18 * max(seconds)), xlabel="milliseconds")
    axes[1].set_title(f"Time of {N_EPOCHS} epochs")
    draw_errors(figure, axes[2], results)
    file = folder / "activations_compared.png"
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
    X, y = load_digits(return_X_y=True)
    results = {name: measure(name, X / 16, y) for name in ACTIVATIONS}
    print_results(results)
    draw(results, arguments.output)


if __name__ == "__main__":
    main()
