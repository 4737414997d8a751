"""Colours and scales of all pictures, and where "healthy" ends on them.

The limits are those of the diagnosis (_evidence.py). Nothing is drawn here (_plots.py).
Colours only mark what is outside the limits: blue is too little, orange is too much.
Blue and orange also differ for readers who are colour-blind.
"""

from __future__ import annotations

import math

from cbp._evidence import (
    DEAD,
    EXPLODING,
    EXPLODING_LATER,
    MOVED,
    SATURATED,
    STEP_FIRST,
    STEP_LATER,
    VANISHING,
)

# Errors, as the decimal logarithm of their size relative to the output layer's. All
# pictures have the same scale, so you can compare any two.
DECADES = 6
HEALTHY_ERRORS = (VANISHING, EXPLODING)
CALM = "#e8e8e4"
_LOW, _HIGH, _LATE = (
    (math.log10(limit) + DECADES) / (2 * DECADES)
    for limit in (*HEALTHY_ERRORS, EXPLODING_LATER)
)
# Within the limits the colour never changes; it begins with a step, so that one layer
# outside them is seen. Up to a hundred times it is pale: when weights have grown, good
# fits come to twenty.
ERROR_COLORS = [
    (0.0, "#0b1a4a"),
    (0.2, "#2f6fb5"),
    (_LOW, "#9cc5ea"),
    (_LOW, CALM),
    (_HIGH, CALM),
    (_HIGH, "#f4e0c8"),
    (_LATE, "#fbcf9c"),
    (_LATE, "#f7a65a"),
    (0.75, "#dd5f0a"),
    (1.0, "#6b2000"),
]
HATCH = "////"
HATCH_COLORS = {"facecolor": "#f6f6f4", "edgecolor": "#8a8a8a"}
MARKED = "#b3004b"  # the number of the verdict, in every picture

# Update/weight of one step. Below the lower number, a thousand steps do not move the
# weights by a tenth. Above the upper one, diagnose calls a step too large. The first
# half of the steps may be larger.
HEALTHY_RATIOS = (MOVED / 1000, STEP_LATER)
HEALTHY_FIRST = STEP_FIRST
RATIO_RANGE = (1e-7, 1.0)
TOO_SMALL, FINE, TOO_LARGE = "#d3e4f5", "white", "#fde0c2"

# Shares of units.
UNITS_LOST = {"dead": DEAD, "saturated": SATURATED}
UNIT_COLORS = {"alive": CALM, "saturated": "#5b97d1", "dead": "#dd5f0a"}
UNIT_HATCHES = {"alive": "", "saturated": "....", "dead": "xxx"}
SHARE_COLORS = "Blues"
SHARE_RANGE = (1e-3, 1.0)

# Costs of several fits, relative to the cost of guessing the average.
HIGHEST_COST = 10.0

# Okabe and Ito's colours for colour-blind readers; printed in grey, the dashes differ.
# Six colours and five dashes make thirty lines before a pair comes again.
LINE_COLORS = ["#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"]
LINE_STYLES = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1))]
