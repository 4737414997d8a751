from dataclasses import dataclass
import numpy as np


@dataclass(frozen=True)
class GradientFlow:
    epoch: object
    gradient: object
    delta: object
    back: object
    weight: object
    update: object
    saturated: object
    stuck: object
    floored: object
    nonfinite: object
    layer_sizes: tuple
    activations: tuple


def summarize_data(network, X, target, weight, rows):
    t = target
    if t.dtype == np.int32 and t.ndim == 1:
        p = np.bincount(t) / len(t)
        p = p[p > 0]
        b = (
            -(p * np.log(p)).sum()
            if network.loss == "log_loss"
            else 0.5
            * (p * (1 - p)).sum()
            * (
                1
                if network.output != "logistic" or network.layer_sizes[-1] > 1
                else 0.5
            )
        )
    else:
        b = 0.5 * t.var(0).sum()
    return dict(n_rows=len(X) if rows is None else len(rows), baseline=b)


def sample_rows(n):
    return slice(0, n, max(1, n // 64))


def needs_outputs(s, l):
    return True


def add_outputs(s, o):
    return dict(s, outputs=o)


def end_summary(s, o):
    return dict(s, outcome=o)


def diagnose(est):
    pass
