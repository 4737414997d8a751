"""What the gradients recorded during a fit mean: why a network does or does not learn.

`GradientFlow` holds the records, `FitSummary` a few numbers about the data, and
`diagnose` reads both and the parameters of the estimator. Nothing is recorded here (see
_recorder.pyx), nothing drawn (see plotting.py) and no data is looked at again. Layers
are counted from 1 to L, the output layer, and the equations are those of
docs/backpropagation.md; docs/diagnosis.md explains every finding.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.exceptions import NotFittedError

if TYPE_CHECKING:
    import pandas as pd

    from cbp._network import Network

# Thresholds. All of them but the first two compare a layer with the output layer, an
# update with its weights, or a cost with that of the best constant answer, so none
# depends on a unit of the data. Those called measured were read off about 600 fits
# (tests/test_diagnosis.py, "tuning") and judged on other data sets and seeds.

# Root mean square of a column of X. Measured: raw iris and digits (6 and 12) train as
# well as standardised; from 30 on SGD and saturating activations suffer.
INPUT_LARGE, INPUT_HUGE = 15.0, 100.0
# Length of a centred row of X; a standardised row of n features has sqrt(n). Measured.
ROW_SHORT, ROW_TINY = 0.3, 0.03
# A fit whose cost has come below this share of a constant answer's cost has learned,
# whatever its gradients look like; at the end of a good fit units saturate and die.
LEARNED = 0.1
# Above this share it has learned next to nothing.
NOTHING_LEARNED = 0.9
# Length of delta^l relative to delta^L. Derived: with Glorot's weights a sigmoid layer
# passes on sqrt(1/3) * 1/4 = 0.14 of it, two of them 0.021; this is the mean (geometric)
# of the two. One sigmoid layer trains, two begin to fail.
VANISHING = 0.05
# The same, upwards: at Glorot's weights a layer passes on at most sqrt(2) of it.
EXPLODING = 10.0
# Shares of a layer's units, or of its parameters. Derived: more than half.
SATURATED = DEAD = FLOORED = 0.5
# Update over weights in one step: the first ones, and later ones. Derived: a step that
# changes half of the weights forgets what they were; measured: good fits stay below 0.1.
STEP_FIRST, STEP_LATER = 0.5, 0.1
# Sum of update over weights over all steps. Derived: had all steps gone one way, the
# weights would not have changed by more than a tenth.
MOVED = 0.1
# Mean rise per epoch in the second half of the loss curve, relative to the cost of a
# constant answer, and share of the rises in all its ups and downs. Measured: good fits
# stay below 0.01 and 0.48, learning rates ten times too high give 0.04 and more.
SWING, RISES = 0.02, 0.25
# tol relative to the cost of a constant answer. scikit-learn's 1e-4 on a cost near 1 is
# 1e-4; from a hundredth on an epoch must make great progress to count as any.
TOL_LARGE = 0.01
# Variance of the predictions relative to that of the targets. Measured: dead networks
# give 1e-3 and less, the poorest that learn something 0.03.
CONSTANT = 0.01

SCALE_INPUT = "make_pipeline(StandardScaler(), model)"
SCALE_SPARSE_INPUT = "make_pipeline(MaxAbsScaler(), model)"
SCALE_TARGET = "TransformedTargetRegressor(model, transformer=StandardScaler())"

# Rows that are looked at: enough for a scale, few enough to cost nothing.
_SAMPLE_ROWS = 64
_SAMPLE_TARGETS = 4096

_RECORDS = (
    ("gradient", "delta", "back", "weight", "update")
    + ("saturated", "stuck", "floored", "nonfinite")
)  # fmt: skip
