"""Gradient diffusion: the article's experiment, two cures, and the effect of depth.

    python examples/gradient_diffusion.py [--output FOLDER]

1. A 3-3-2-1 network separates two balls of points. It has learning rate 0.1, batches of
   128, quadratic cost and standard-normal initial weights. It trains until the cost is
   below 0.01. With sigmoid hidden layers the error shrinks on its way back, (3.7) in
   docs/backpropagation.md, and the first layers learn slowly. There are two cures:
   another activation (ReLU), and another cost (cross-entropy, without the factor f' in
   the last layer). A plain NumPy program trains from the same weights on the same
   batches, and must end with the same weights as cbp.
2. Networks of 2 to 30 hidden layers learn the digits set. The program measures by how
   much each layer shrinks the error before training, how much of that comes from f'
   (theory: at most 1/4 for sigmoid units), and what the network learns nevertheless.

Prints tables and draws three pictures (these need: pip install "cbp-learn[plot]").
"""

import argparse
import copy
import time
import warnings
from pathlib import Path

import numpy as np
from scipy.special import expit
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from cbp import BPClassifier, backpropagate
from cbp.datasets import make_two_spheres

# ---- 1. the article's experiment

ETA, BATCH, GOAL = 0.1, 128, 0.01
SEEDS = range(16)
# The cost is computed whenever training has become longer by a twentieth, at most every
# epoch. A run that has not arrived after MAX_EPOCHS is given up.
MAX_EPOCHS = 5000
UPDATES_PER_EPOCH = 2  # 200 rows make a batch of 128 and one of 72
ARTICLE_SECONDS = {"sigmoid": 1037, "ReLU": 309}

# Hidden layers and cost of each variant. The first variant is the one to be cured.
VARIANTS = {
    "sigmoid": ("logistic", "squared_error"),
    "ReLU": ("relu", "squared_error"),
    "sigmoid, cross-entropy": ("logistic", "log_loss"),
    "ReLU, cross-entropy": ("relu", "log_loss"),
}


def make_model(variant, X, y, seed):
    """A network with standard-normal weights; its `fit` continues from them."""
    activation, loss = VARIANTS[variant]
    rng = np.random.RandomState(seed)  # draws the weights, then the batches
    model = BPClassifier(
        (3, 2),
        activation,
        loss=loss,
        solver="sgd",
        momentum=0,
        alpha=0,
        learning_rate_init=ETA,
        batch_size=BATCH,
        n_iter_no_change=np.inf,  # no other reason to stop
        warm_start=True,
        random_state=rng,
    )
    model.initialize(X, y)
    model.coefs_ = [rng.standard_normal(W.shape) for W in model.coefs_]
    model.intercepts_ = [rng.standard_normal(b.shape) for b in model.intercepts_]
    return model


def quadratic_cost(model, X, y):
    return np.mean((model.predict_proba(X)[:, 1] - y) ** 2) / 2


def train_numpy(variant, W, b, X, y, n_epochs, rng):
    """The same training in plain NumPy, one line per equation."""
    activation, loss = VARIANTS[variant]
    f = expit if activation == "logistic" else lambda z: np.maximum(z, 0)
    f_prime = (lambda a: a * (1 - a)) if activation == "logistic" else np.sign
    order, y = np.arange(len(X)), y[:, None]
    for _ in range(n_epochs):
        rng.shuffle(order)
        for start in range(0, len(X), BATCH):
            rows = order[start : start + BATCH]
            a = [X[rows]]
            for l in range(3):
                z = a[l] @ W[l] + b[l]  # (1.1)
                a.append(expit(z) if l == 2 else f(z))  # (1.2)
            delta = a[3] - y[rows]  # (2.5)
            if loss == "squared_error":
                delta *= a[3] * (1 - a[3])
            for l in [2, 1, 0]:
                dW = a[l].T @ delta / len(rows)  # (4.1)
                db = delta.mean(axis=0)  # (5.1)
                if l > 0:
                    delta = delta @ W[l].T * f_prime(a[l])  # (3.7)
                W[l] -= ETA * dW  # (6.1)
                b[l] -= ETA * db  # (6.2)


def run_variant(variant, seed):
    """Train until the cost is below GOAL; then time both programs for these epochs."""
    X, y = make_two_spheres(random_state=seed)
    model = make_model(variant, X, y, seed)
    delta = [rms(delta) for delta in backpropagate(model, X, y).delta]
    epochs, costs = [0], [quadratic_cost(model, X, y)]
    while epochs[-1] == 0 or (costs[-1] >= GOAL and epochs[-1] < MAX_EPOCHS):
        model.set_params(max_iter=max(1, epochs[-1] // 20)).fit(X, y)
        epochs.append(epochs[-1] + model.max_iter)
        costs.append(quadratic_cost(model, X, y))
    updates = UPDATES_PER_EPOCH * np.array(epochs)
    run = {"updates": updates, "costs": costs, "delta": delta}
    run["arrived"] = costs[-1] < GOAL
    if run["arrived"]:
        run["seconds"], run["numpy_seconds"] = time_both(
            variant, X, y, seed, epochs[-1]
        )
    else:
        *hidden, output = backpropagate(model, X, y).a
        run["dead"] = any(not a.any() for a in hidden)
        run["saturated"] = np.median(output * (1 - output)) < 0.01
    return run


def time_both(variant, X, y, seed, n_epochs):
    """Seconds of processor time that each program takes for the same training."""
    model = make_model(variant, X, y, seed).set_params(max_iter=n_epochs)
    W = [W.copy() for W in model.coefs_]
    b = [b.copy() for b in model.intercepts_]
    rng = copy.deepcopy(model.random_state)
    start = time.process_time()
    model.fit(X, y)
    middle = time.process_time()
    train_numpy(variant, W, b, X, y, n_epochs, rng)
    end = time.process_time()
    for ours, theirs in zip(model.coefs_ + model.intercepts_, W + b, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)
    return middle - start, end - middle


def rms(values):
    """Root mean square."""
    return np.sqrt(np.mean(np.square(values)))


def article_experiment():
    """All variants and seeds: a dict of lists of runs."""
    runs = {}
    for variant in VARIANTS:
        runs[variant] = [run_variant(variant, seed) for seed in SEEDS]
    return runs


def print_article(runs):
    print(
        f"1. Two balls, 3-3-2-1 network, eta {ETA}, batches of {BATCH}, until the "
        f"quadratic cost is below {GOAL}\n\n"
        f"{'':24}{'arrived':>9}{'updates: median, range':>27}{'cbp':>10}{'NumPy':>10}"
        f"{'ratio':>7}"
    )
    medians = {}
    for variant, all_runs in runs.items():
        arrived = [run for run in all_runs if run["arrived"]]
        updates = [run["updates"][-1] for run in arrived]
        ours = np.median([run["seconds"] for run in arrived])
        theirs = np.median([run["numpy_seconds"] for run in arrived])
        medians[variant] = np.median(updates), ours
        print(
            f"{variant:24}{len(arrived):>3} of {len(all_runs):2}"
            f"{np.median(updates):>12.0f}, {f'{min(updates)} to {max(updates)}':>13}"
            f"{1e3 * ours:>7.1f} ms{1e3 * theirs:>7.0f} ms{theirs / ours:>6.0f}x"
        )
    stuck = [run for every in runs.values() for run in every if not run["arrived"]]
    dead, saturated = (sum(run[why] for run in stuck) for why in ("dead", "saturated"))
    print(
        f"\n{len(stuck)} runs do not arrive. In {dead} a whole ReLU layer is dead (0 "
        f"on all rows).\nIn {saturated} the output is saturated on most rows. There f' "
        "stops the error of the\nquadratic cost (cross-entropy has no f' there)."
    )
    sigmoid, relu = medians["sigmoid"], medians["ReLU"]
    print(
        f"Sigmoid layers need {sigmoid[0] / relu[0]:.1f} times the updates of ReLU "
        f"layers, and {sigmoid[1] / relu[1]:.1f} times the time.\n"
        "The article's NumPy program took {sigmoid} s and {ReLU} s on its machine, "
        "{ratio:.1f} times the time.\n".format(
            **ARTICLE_SECONDS,
            ratio=ARTICLE_SECONDS["sigmoid"] / ARTICLE_SECONDS["ReLU"],
        )
    )
    print(f"{'error before training':24}{'layer 1':>10}{'layer 2':>10}{'layer 3':>10}")
    for variant, all_runs in runs.items():
        delta = np.median([run["delta"] for run in all_runs], axis=0)
        print(f"{variant:24}" + "".join(f"{size:10.5f}" for size in delta))
    delta = np.array([run["delta"] for run in runs["sigmoid"]])
    first, second = np.median(delta[:, 1:] / delta[:, :-1], axis=0)
    print(
        f"\nWith sigmoid layers it shrinks {second:.0f} times from layer 3 to 2, and "
        f"{first:.0f} times from 2 to 1 (the article: about 10).\n"
    )


# ---- 2. depth

DEPTHS = [2, 3, 5, 8, 12, 20, 30]
WIDTH, N_EPOCHS = 30, 15
ACTIVATIONS = {"sigmoid": "logistic", "tanh": "tanh", "ReLU": "relu"}


def measure_depth(activation, depth, data):
    """The factors of (3.7) before training, then the accuracy after it."""
    X_train, X_test, y_train, y_test = data
    model = BPClassifier(
        [WIDTH] * depth, activation, batch_size=32, max_iter=N_EPOCHS, random_state=0
    )
    model.initialize(X_train, y_train)
    flow = backpropagate(model, X_train[:400], y_train[:400])
    sizes = np.array([rms(delta) for delta in flow.delta])
    # The error that (W^T delta) brings to each hidden layer, before f' shrinks it.
    back = np.array(
        [rms(flow.delta[l + 1] @ model.coefs_[l + 1].T) for l in range(depth)]
    )
    model.fit(X_train, y_train)
    return {
        "sizes": sizes / sizes[-1],
        "gain": sizes[:-1] / sizes[1:],
        "gain_weights": back / sizes[1:],
        "gain_activation": sizes[:-1] / back,
        "accuracy": model.score(X_test, y_test),
        "model": model,
    }


def depth_experiment():
    """Every activation at every depth: a dict of dicts of measurements."""
    X, y = load_digits(return_X_y=True)
    data = train_test_split(X / 16, y, stratify=y, random_state=0)
    return {
        name: {depth: measure_depth(f, depth, data) for depth in DEPTHS}
        for name, f in ACTIVATIONS.items()
    }


def print_depth(results):
    print(
        f"2. Digits, 2 to 30 hidden layers of {WIDTH} units: gain (the error in layer "
        "l, divided by the error in\n   layer l + 1, before training; mean over hidden "
        "layers) with its two factors, and accuracy\n   on new images after "
        f"{N_EPOCHS} epochs of Adam\n\n"
        f"{'':10}{'layers':>6}{'gain':>9}{'= weights':>11}{'x f-prime':>11}"
        f"{'largest f-prime':>17}{'first / last':>14}{'accuracy':>10}"
    )
    for name, by_depth in results.items():
        for depth, result in by_depth.items():
            gains = [
                np.exp(np.mean(np.log(result[key])))
                for key in ("gain", "gain_weights", "gain_activation")
            ]
            print(
                f"{name:10}{depth:>6}{gains[0]:>9.3f}{gains[1]:>11.3f}{gains[2]:>11.3f}"
                f"{result['gain_activation'].max():>17.3f}{result['sizes'][0]:>14.1e}"
                f"{result['accuracy']:>10.3f}"
            )
    largest = max(r["gain_activation"].max() for r in results["sigmoid"].values())
    print(
        f"\nTheory: f' of a sigmoid is at most 1/4; the largest factor measured is "
        f"{largest:.4f}.\nGuessing one digit would have an accuracy of a tenth.\n"
    )


# ---- pictures

# Okabe and Ito's colours for colour-blind readers; in grey the dashes differ.
LOOKS = {
    "sigmoid": {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    "ReLU": {"color": "#D55E00", "linestyle": "--", "marker": "s"},
    "tanh": {"color": "#009E73", "linestyle": "-.", "marker": "^"},
    "sigmoid, cross-entropy": {"color": "#009E73", "linestyle": "-.", "marker": "^"},
    "ReLU, cross-entropy": {"color": "#CC79A7", "linestyle": ":", "marker": "D"},
}


def line(label, name=None, **more):
    return {"label": label, "markersize": 4, **LOOKS[name or label], **more}


def draw_article(plt, runs):
    """Cost against updates for each cure, and the error per layer before training."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    draw_costs(axes[0], runs, ["sigmoid", "ReLU"])
    axes[0].set_title("First cure: another activation")
    draw_costs(axes[1], runs, ["sigmoid", "sigmoid, cross-entropy"])
    axes[1].set_title("Second cure: another cost")
    for variant, all_runs in runs.items():
        delta = np.median([run["delta"] for run in all_runs], axis=0)
        axes[2].plot([1, 2, 3], delta, **line(variant))
    axes[2].set(yscale="log", xticks=[1, 2, 3], xlabel="layer", ylabel="rms of error δ")
    axes[2].set_title("Error before training")
    axes[2].legend()
    return figure


def draw_costs(ax, runs, variants):
    """One line per seed; the run of median length has a thick line."""
    for variant in variants:
        in_order = sorted(runs[variant], key=lambda run: run["updates"][-1])
        for i, run in enumerate(in_order):
            median = i == len(in_order) // 2
            look = line(variant if median else None, variant, marker="")
            look |= {"linewidth": 2.5} if median else {"linewidth": 0.8, "alpha": 0.6}
            ax.plot(run["updates"], run["costs"], **look)
    ax.axhline(GOAL, color="black", linewidth=0.8)
    ax.set_xscale("symlog", linthresh=10)
    ax.set(yscale="log", xlabel="updates", ylabel="quadratic cost")
    ax.set(xlim=(0, MAX_EPOCHS * UPDATES_PER_EPOCH), ylim=(GOAL / 4, None))
    title = f"{len(SEEDS)} seeds, the median one thick"
    ax.legend(loc="lower left", title=title, handlelength=4)


def draw_depth(plt, results):
    """The error along 30 layers, the factor of f' and the accuracy by depth."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    deepest = max(DEPTHS)
    layers = np.arange(1, deepest + 2)
    for name, by_depth in results.items():
        look = line(name)
        axes[0].plot(layers, by_depth[deepest]["sizes"], **look)
        factors = [result["gain_activation"].mean() for result in by_depth.values()]
        axes[1].plot(DEPTHS, factors, **look)
        axes[2].plot(DEPTHS, [r["accuracy"] for r in by_depth.values()], **look)
    bound = {"color": "black", "linewidth": 1}
    theory = 0.25 ** (deepest + 1.0 - layers)
    axes[0].plot(layers, theory, label="1/4 per layer: σ' alone", **bound)
    axes[0].set(yscale="log", xlabel="layer", ylabel="error δ over that of the output")
    axes[0].set_title(f"Error along {deepest} hidden layers, before training")
    axes[0].legend()
    axes[1].axhline(0.25, label="theory: σ' ≤ 1/4", **bound)
    axes[1].set(ylim=(0, 1.05), xlabel="hidden layers", ylabel="factor of f' per layer")
    axes[1].set_title("What the activation leaves of the error")
    axes[1].legend(loc=(0.55, 0.28))
    axes[2].axhline(0.1, label="guessing", **bound)
    axes[2].set(ylim=(0, 1.05), xlabel="hidden layers", ylabel="accuracy on new images")
    axes[2].set_title(f"After {N_EPOCHS} epochs of Adam")
    axes[2].legend(loc=(0.3, 0.17))
    return figure


def draw_flow(results, depth=8):
    """The gradients that the fits recorded."""
    from cbp.plotting import GradientFlowDisplay

    displays = GradientFlowDisplay.compare(
        {name: by_depth[depth]["model"] for name, by_depth in results.items()}
    )
    return displays[0].figure_


def draw(runs, results, folder):
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        print('No pictures without matplotlib: pip install "cbp-learn[plot]"')
        return
    plt.switch_backend("agg")
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in [
        ("gradient_diffusion_article.png", draw_article(plt, runs)),
        ("gradient_diffusion_depth.png", draw_depth(plt, results)),
        ("gradient_diffusion_flow.png", draw_flow(results)),
    ]:
        figure.savefig(folder / name, dpi=110)
        print(f"wrote {folder / name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=Path(), help="folder of the pictures"
    )
    arguments = parser.parse_args()
    # Here max_iter always ends a fit, so the warning says nothing new.
    warnings.simplefilter("ignore", ConvergenceWarning)
    runs = article_experiment()
    print_article(runs)
    results = depth_experiment()
    print_depth(results)
    draw(runs, results, arguments.output)


if __name__ == "__main__":
    main()
