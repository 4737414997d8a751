"""What a rule says: one thing that is wrong with a fit, or worth a note."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cbp._paste import imports

# What `severity` may be: a problem spoils the fit, a note does not. Users compare with
# the words, and pickles hold them.
PROBLEM, NOTE = "illness", "remark"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a fit, or worth a note.

    Parameters
    ----------
    code : str
        Its name, for example 'vanishing-gradient'; docs/diagnosis.md lists all.
    layer : int or None
        The layer it is worst in, 1 to L; None if it concerns the network as a whole.
    message : str
        The evidence in a sentence.
    evidence : dict of str to float, int, str or list
        The numbers behind it.
    advice : str
        Python to paste: parameters and their values, as `set_params` takes them, or an
        expression in which `model` is the estimator, and `X`, `y` and `w` are the data
        of the fit and its sample weights.
    severity : {'illness', 'remark'}
        Whether it spoils the fit.
    """

    code: str
    layer: int | None
    message: str
    evidence: dict[str, Any] = field(hash=False)
    advice: str
    severity: str = PROBLEM

    @property
    def imports(self) -> tuple[str, ...]:
        """The lines that import what the advice names."""
        return imports(self.advice)


# Where users import it from, and where pickles look for it.
Finding.__module__ = "cbp.diagnosis"
