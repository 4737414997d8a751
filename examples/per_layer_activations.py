"""Why the activation matters in a deep network, and what one per layer can do.

    python examples/per_layer_activations.py

Trains a network of eight hidden layers on the digits set with different activations.
Draws its accuracy on held-out images, epoch by epoch. The derivative of the logistic
function is at most 1/4. So the error becomes very small on its way back through many
such layers, and the first layers learn nothing. This is the vanishing gradient
(docs/backpropagation.md, equation 3.7). A few layers of another kind let the error
pass.
"""

import time

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from cbp import BPClassifier

N_LAYERS = 8
N_EPOCHS = 60
ACTIVATIONS = {
    "logistic in all 8": "logistic",
    "tanh in all 8": "tanh",
    "relu in all 8": "relu",
    "relu x 7, logistic last": ["relu"] * 7 + ["logistic"],
    "logistic first, relu x 7": ["logistic"] + ["relu"] * 7,
    "logistic and relu in turn": ["logistic", "relu"] * 4,
    "tanh x 4, relu x 4": ["tanh"] * 4 + ["relu"] * 4,
}
BARS = "▁▂▃▄▅▆▇█"


def accuracy_by_epoch(activation, X_train, y_train, X_test, y_test):
    """Held-out accuracy after each epoch of training."""
    model = BPClassifier(
        hidden_layer_sizes=[32] * N_LAYERS,
        activation=activation,
        batch_size=32,
        random_state=0,
    )
    scores = []
    for _ in range(N_EPOCHS):  # partial_fit is one epoch
        model.partial_fit(X_train, y_train, classes=range(10))
        scores.append(model.score(X_test, y_test))
    return scores


def main():
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(
        X / 16, y, stratify=y, random_state=0
    )
    print(f"{N_LAYERS} hidden layers of 32 units, accuracy on {len(X_test)} images\n")
    print(f"{'':28}{f'epochs 1 to {N_EPOCHS}':{N_EPOCHS + 2}}last   seconds")
    for label, activation in ACTIVATIONS.items():
        start = time.perf_counter()
        scores = accuracy_by_epoch(activation, X_train, y_train, X_test, y_test)
        seconds = time.perf_counter() - start
        curve = "".join(BARS[int(score * 7.999)] for score in scores)
        print(f"{label:28}{curve}  {scores[-1]:.3f}  {seconds:6.1f}", flush=True)
    print("\n(guessing one digit would have an accuracy of a tenth)")


if __name__ == "__main__":
    main()
