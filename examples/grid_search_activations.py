"""Which activation reads handwritten digits best? A grid search in a pipeline.

    python examples/grid_search_activations.py

Searches activations (one for all hidden layers, and one per layer), layer sizes and
the L2 penalty by cross-validation. Shows a table, and tests the winner on images that
the search never saw. Times the same search with scikit-learn's MLPClassifier. At the
end it says in a sentence what the winner's gradients show, and draws them in the
picture gradient_flow.png.
"""

import os
import time

import joblib
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cbp import BPClassifier
from cbp.plotting import GradientFlowDisplay

ONE_FOR_ALL = ["identity", "logistic", "tanh", "relu"]
ONE_PER_LAYER = [
    ("logistic", "relu"),
    ("relu", "logistic"),
    ("tanh", "relu"),
    ("relu", "tanh"),
]
LAYER_SIZES = [(64, 32), (128, 64)]
ALPHAS = [1e-4, 1e-1]
N_FOLDS = 5


def search(classifier, activations, X, y):
    """Grid-search a classifier in a pipeline; return the search and its seconds."""
    pipeline = make_pipeline(
        StandardScaler(),
        classifier(batch_size=32, learning_rate_init=0.003, random_state=0),
    )
    step = classifier.__name__.lower()
    grid = {
        f"{step}__activation": activations,
        f"{step}__hidden_layer_sizes": LAYER_SIZES,
        f"{step}__alpha": ALPHAS,
    }
    # One process per core and one thread per fit, for both classifiers.
    result = GridSearchCV(pipeline, grid, cv=N_FOLDS, n_jobs=-1, verbose=1)
    start = time.perf_counter()
    with joblib.parallel_config(verbose=7):  # joblib prints its progress
        result.fit(X, y)
    return result, time.perf_counter() - start


def best_per_activation(result):
    """The best candidate for each activation, the best activation first."""
    table = {}
    scores = result.cv_results_
    for i in np.argsort(scores["rank_test_score"], kind="stable"):
        chosen = {
            name.partition("__")[2]: value
            for name, value in scores["params"][i].items()
        }
        table.setdefault(
            chosen["activation"],
            {
                **chosen,
                "mean": scores["mean_test_score"][i],
                "std": scores["std_test_score"][i],
            },
        )
    for activation, row in table.items():
        times = [
            scores["mean_fit_time"][i]
            for i, params in enumerate(scores["params"])
            if activation in params.values()
        ]
        row["fit_time"] = np.mean(times)
    return table


def name(activation):
    """One name for an activation, or for a list of activations layer by layer."""
    return activation if isinstance(activation, str) else " > ".join(activation)


def show_misread(model, X, y, n_shown=3):
    """Draw the misread images of which the model is most certain."""
    probability = model.predict_proba(X)
    guess = model.classes_[probability.argmax(axis=1)]
    wrong = np.flatnonzero(guess != y)
    worst = wrong[np.argsort(-probability[wrong].max(axis=1))][:n_shown]
    captions = [
        f"a {y[i]}, read as {guess[i]} ({probability[i].max():.0%})" for i in worst
    ]
    print("".join(f"{caption:28}" for caption in captions))
    shades = " .:-=+*#%@"
    for row in range(8):
        for i in worst:
            pixels = X[i].reshape(8, 8)[row]
            line = "".join(2 * shades[int(pixel * 9 / 16)] for pixel in pixels)
            print(f"{line:28}", end="")
        print()


def show_gradients(classifier, file="gradient_flow.png"):
    """Print why the network learned, and draw its gradients."""
    print(f"\n{classifier.diagnose().verdict}")
    try:
        display = GradientFlowDisplay.from_estimator(classifier)
    except ImportError:
        print("(Install matplotlib to see a picture of its gradients here, too.)")
        return
    display.figure_.savefig(file, dpi=120, bbox_inches="tight")
    print(f"Its gradients, layer by layer: {file}")


def main():
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=0.25, stratify=y, random_state=0
    )
    print(
        f"{len(X)} images of 8 x 8 pixels: {len(X_train)} for the search, "
        f"{len(X_test)} held out. {os.cpu_count()} CPU cores."
    )
    # Start the worker processes and import both packages there. Neither search should
    # include this time.
    joblib.Parallel(n_jobs=-1)(
        joblib.delayed(clone)(classifier())
        for classifier in [BPClassifier, MLPClassifier] * os.cpu_count()
    )

    print("\n1. BPClassifier, one activation for all hidden layers or one per layer\n")
    result, _ = search(BPClassifier, ONE_FOR_ALL + ONE_PER_LAYER, X_train, y_train)

    print(f"\n{'activation':18}{'accuracy':20}{'fit time':12}{'layers':12}alpha")
    for activation, row in best_per_activation(result).items():
        layers = "-".join(str(size) for size in row["hidden_layer_sizes"])
        print(
            f"{name(activation):18}{row['mean']:.4f} ± {row['std']:.4f}     "
            f"{row['fit_time']:.3f} s     {layers:12}{row['alpha']:g}"
        )
    print(
        "(accuracy: mean ± std over the folds, for the best layers and alpha;"
        "\n fit time: mean over all layers, alphas and folds)"
    )

    print("\n2. The winner, trained on all images of the search\n")
    accuracy = result.score(X_test, y_test)
    right = round(accuracy * len(y_test))
    print(f"It reads {right} of the {len(y_test)} held-out images: {accuracy:.1%}.\n")
    show_misread(result.best_estimator_, X_test, y_test)

    print(
        "\n3. The same search with both classifiers (only single activations, because"
        "\n   MLPClassifier cannot have one activation per layer)\n"
    )
    ours, our_seconds = search(BPClassifier, ONE_FOR_ALL, X_train, y_train)
    theirs, their_seconds = search(MLPClassifier, ONE_FOR_ALL, X_train, y_train)

    print(f"\n{'':18}{'BPClassifier':>14}{'MLPClassifier':>16}{'ratio':>9}")
    our_table, their_table = best_per_activation(ours), best_per_activation(theirs)
    for activation in ONE_FOR_ALL:
        our_time = our_table[activation]["fit_time"]
        their_time = their_table[activation]["fit_time"]
        print(
            f"fit, {activation:13}{our_time:12.3f} s{their_time:14.3f} s"
            f"{their_time / our_time:8.1f}x"
        )
    print(
        f"{'whole search':18}{our_seconds:12.1f} s{their_seconds:14.1f} s"
        f"{their_seconds / our_seconds:8.1f}x"
    )
    print(f"{'best accuracy':18}{ours.best_score_:14.4f}{theirs.best_score_:16.4f}")

    print("\n4. Why the winner learned")
    show_gradients(result.best_estimator_[-1])


if __name__ == "__main__":
    main()
