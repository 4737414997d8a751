"""A diagnosis as a page of HTML: verdict, findings, pictures, parameters and data.

The page is one file without scripts, and it loads nothing: pictures are in it as PNG.
Everything that is not markup is escaped. What is said is decided in diagnosis.py, and
how pictures look in plotting.py; this module is imported for the first page.
"""

from __future__ import annotations

import base64
import io
import platform
from collections.abc import Iterator, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import sklearn

from cbp import _plots
from cbp._catalog import ACTIVATIONS
from cbp._fit_record import FitRecord
from cbp.diagnosis import PROBLEM, Diagnosis, Finding
from cbp.plotting import GradientFlowDisplay, LossCurveDisplay

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Twice the pixels of 900 px, for screens that have them.
_DPI = 144
_STYLE = """
.cbp-report { max-width: 900px; margin: 0 auto; padding: 0 1em; text-align: left;
  font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #ffffff; }
.cbp-report .verdict { font-size: 1.35em; font-weight: 600; line-height: 1.35; }
.cbp-report h2 { font-size: 1.15em; margin: 1.6em 0 0.4em; }
.cbp-report .first { border-left: 6px solid #0072B2; background: #f1f6fb;
  padding: 0.7em 1em; margin: 1em 0; }
.cbp-report .first pre { font-size: 1.2em; }
.cbp-report .finding { border-left: 6px solid #d9d9d5; padding: 0.2em 1em;
  margin: 0.8em 0; font-size: 0.92em; }
.cbp-report .code { font-weight: 600; }
.cbp-report pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0.3em 0;
  font-family: ui-monospace, monospace; background: none; color: inherit; }
.cbp-report img { max-width: 100%; height: auto; display: block; }
.cbp-report figure { margin: 0.8em 0; }
.cbp-report figcaption, .cbp-report footer { color: #555555; font-size: 0.9em; }
.cbp-report table { border-collapse: collapse; font-size: 0.92em; }
.cbp-report th, .cbp-report td { text-align: left; vertical-align: top;
  padding: 0.15em 1.2em 0.15em 0; overflow-wrap: anywhere; background: none; }
.cbp-report th { font-weight: 400; color: #555555; white-space: nowrap; }
.cbp-report .changed { font-weight: 600; }
"""


def page(diagnosis: Diagnosis) -> str:
    """A whole page, for a file."""
    record = diagnosis.record
    title = "Diagnosis" + ("" if record is None else f" of a {record.estimator}")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n</head>\n"
        f'<body style="margin: 1.5em 0">\n{fragment(diagnosis)}\n</body>\n</html>\n'
    )


def fragment(diagnosis: Diagnosis) -> str:
    """The same for a cell of a notebook."""
    record = diagnosis.record
    parts = [f"<style>{_STYLE}</style>", '<div class="cbp-report">']
    parts.append(f'<p class="verdict">{escape(diagnosis.verdict)}</p>')
    for number, finding in enumerate(diagnosis.findings):
        parts.append(_finding(finding, first=number == 0))
    if record is not None:
        parts += _pictures(diagnosis, record)
        parts.append(_parameters(record))
        if record.data:
            parts += ["<h2>Data and training</h2>", _table(record.data)]
        parts.append(_footer())
    parts.append("</div>")
    return "\n".join(parts)


def _finding(finding: Finding, first: bool) -> str:
    name = finding.code
    if finding.layer is not None:
        name += f", layer {finding.layer}"
    if finding.severity != PROBLEM:
        name += f" ({finding.severity})"
    kind = "first" if first else "finding"
    advice = ""
    if finding.advice:
        words = "Try this first:" if first else "Try:"
        lines = "\n".join([*finding.imports, finding.advice])
        advice = f"<div>{words}</div><pre>{escape(lines)}</pre>"
    return (
        f'<div class="{kind}"><div class="code">{escape(name)}</div>'
        f"<div>{escape(finding.message)}</div>{advice}</div>"
    )


def _parameters(record: FitRecord) -> str:
    changed = {name: record.parameters[name] for name in record.changed}
    others = {k: v for k, v in record.parameters.items() if k not in changed}
    text = f"<h2>Parameters of {escape(record.estimator)}</h2>"
    if changed:
        text += _table(changed, "changed")
    if others:
        count = "Parameters with their default values" if changed else "All defaults"
        text += f"<details><summary>{count}</summary>{_table(others)}</details>"
    return text


def _table(rows: Mapping[str, str], kind: str = "") -> str:
    cells = "".join(
        f'<tr><th>{escape(str(name))}</th><td class="{kind}">{escape(str(value))}</td>'
        "</tr>"
        for name, value in rows.items()
    )
    return f"<table>{cells}</table>"


def _footer() -> str:
    from cbp import __version__

    words = (
        f"cbp {__version__}, scikit-learn {sklearn.__version__}, NumPy "
        f"{np.__version__}, Python {platform.python_version()}"
    )
    return f"<footer><p>{escape(words)}</p></footer>"


# ---- pictures


def _pictures(diagnosis: Diagnosis, record: FitRecord) -> Iterator[str]:
    """Each picture with a sentence on how to read it."""
    yield "<h2>Pictures</h2>"
    try:
        figures = [
            (draw(diagnosis, record), caption)
            for draw, caption in (
                (_loss, _LOSS),
                (_errors, _ERRORS),
                (_units, _UNITS),
            )
        ]
    except ImportError as error:  # matplotlib is optional
        yield f"<p>{escape(str(error))}</p>"
        return
    figures = [(figure, caption) for figure, caption in figures if figure is not None]
    if not figures:
        yield "<p>The fit ended before there was anything to draw.</p>"
    for figure, caption in figures:
        yield (
            f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,'
            f'{_png(figure)}"><figcaption>{escape(caption)}</figcaption></figure>'
        )


_LOSS = (
    "Loss. A model that has learned is far below the dashed line, which is the loss of "
    "always guessing the average. If the loss of held-out rows is far above that of "
    "the training rows (the gap is shaded), the model has learned the training rows by "
    "heart."
)
_ERRORS = (
    "Errors on their way back through the layers, compared with the output layer, and "
    "the size of the steps below. Grey is healthy. Blue layers get too little of the "
    "error to learn, orange ones too much. Hatched: the numbers were not finite."
)
_UNITS = (
    "Hidden units in the second half of training. Dead and saturated units learn "
    "nothing more. Beyond the dashed limit, more than half of a layer is lost."
)


def _figure(height: float) -> Any:
    """A figure that pyplot does not know, and so does not show a second time."""
    _plots.pyplot()  # the error that says what to install
    from matplotlib.figure import Figure

    return Figure(figsize=(9, height), layout="constrained")


def _loss(diagnosis: Diagnosis, record: FitRecord) -> Figure | None:
    if not len(record.loss_curve):
        return None
    figure = _figure(3.6 if record.validation_scores is None else 5.2)
    LossCurveDisplay._of_record(record).plot(figure.add_subplot())
    return figure


def _errors(diagnosis: Diagnosis, record: FitRecord) -> Figure | None:
    if not len(record.flow.epoch):
        return None
    figure = _figure(5)
    display = GradientFlowDisplay._of_diagnosis(record.flow, diagnosis)
    display.verdict = None  # the page begins with it
    display.plot(figure.add_subplot())
    return figure


def _units(diagnosis: Diagnosis, record: FitRecord) -> Figure | None:
    kinds = [ACTIVATIONS[name].lost_units for name in record.flow.activations]
    if not len(record.lost) or not any(kinds) or not np.isfinite(record.lost).all():
        return None
    figure = _figure(min(1.8 + 0.25 * len(kinds), 4.5))
    ax = figure.add_subplot()
    _plots.draw_units(ax, record.lost, kinds)
    _plots.set_layers(ax, len(kinds), output=False)
    return figure


def _png(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return base64.b64encode(file.getvalue()).decode("ascii")
