"""The examples of the documentation run as they stand.

Every Python block of a page is run, in order, in one namespace.
"""

import re
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    "docs/backpropagation.md",
    "docs/callbacks.md",
    "docs/checkpoints.md",
    "docs/differences.md",
    "docs/diagnosis.md",
    "docs/model_files.md",
    "docs/export.md",
    "docs/worked_example.md",
]
# What the examples of a page need beside the test extra's least.
NEEDS = {"docs/export.md": ("onnxruntime", "skl2onnx")}


@pytest.mark.parametrize("page", PAGES)
def test_examples_of_the_documentation_run(page):
    for package in NEEDS.get(page, ()):
        pytest.importorskip(package)
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = list(
        re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    )
    assert blocks
    namespace = {}
    for block in blocks:
        line = text.count("\n", 0, block.start(1))
        # Line numbers in a traceback are those of the page.
        code = compile("\n" * line + block.group(1), str(ROOT / page), "exec")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(code, namespace)
