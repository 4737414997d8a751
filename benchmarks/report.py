"""results.md: one file for all tables; every script rewrites its own section.

A section is printed line by line during the measurement. When it is complete, it is
written into the file. Sections of other scripts stay as they are. Progress goes to
stderr. measure.py does the timing.
"""

import argparse
import re
import sys

import measure

# Titles in the order in which they stand in the file; the script that writes each.
SECTIONS = {
    "Training": "compare.py",
    "Matrix products": "kernels.py",
    "Prediction": "prediction.py",
    "Grid search, L-BFGS, sparse data": "search.py",
    "Growth": "growth.py",
    "What recording costs": "monitor.py",
    "What callbacks cost": "callbacks.py",
    "What options cost": "options.py",
    "Threads": "threads.py",
    "What a call costs": "calls.py",
    "Import and Ctrl-C": "latency.py",
}
HEAD = """\
# cbp, measured

Every section is written by the script that it names, one run each (`make bench-all`
runs them all). Programs run in alternation within one process, on as many cores as they
use threads; numbers are medians, ratios are medians over the rounds of cbp against
another program in the same round. A ratio above 1 means that cbp is faster. Compare
ratios, not rates, between sections, days and machines.

"""


def parser(doc):
    """An argument parser with the options of all scripts: --quick, --output."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--quick", action="store_true", help="fewer and shorter runs")
    made.add_argument(
        "--output",
        metavar="FILE.md",
        help="file in which this script's section is rewritten, relative to the "
        "folder of the scripts; pictures are next to it; - writes nothing (default: "
        "results.md; with --quick: results-quick.md)",
    )
    return made


def say(text):
    """Print progress for the user."""
    print(text, file=sys.stderr, flush=True)


def times(ratio):
    """How many times as fast, with three digits: '1.20×'."""
    return f"{ratio:.0f}×" if ratio >= 100 else f"{ratio:#.3g}×"


class Report:
    """One section, with its title.

    Parameters
    ----------
    title : str
        One of SECTIONS.
    args : argparse.Namespace
        With `quick` and `output`, from `parser`.
    conditions : iterable of str
        Where, when and how it is measured.
    """

    def __init__(self, title, args, conditions):
        script = SECTIONS[title]
        name = args.output or ("results-quick.md" if args.quick else "results.md")
        self.path = None if name == "-" else measure.HERE / name
        self.title, self.lines = title, []
        print(f"## {title}\n")
        command = " ".join([f"python benchmarks/{script}", *sys.argv[1:]])
        for line in [f"`{command}`", *conditions]:
            self.line(f"- {line}")

    def line(self, text=""):
        print(text, flush=True)
        self.lines.append(text)

    def head(self, cells):
        """The first row of a table, after an empty line."""
        self.line()
        self.row(cells)
        self.line("|" + "---|" * len(cells))

    def row(self, cells):
        self.line("| " + " | ".join(cells) + " |")

    def picture(self, name, alt):
        """The path of a picture that the section shows; None with `--output -`.

        For 'growth' it is growth.png next to results.md, growth-quick.png next to
        results-quick.md, and other-growth.png next to other.md.
        """
        if self.path is None:
            return None
        stem = self.path.stem
        ours = stem.startswith("results")
        name = stem.replace("results", name, 1) if ours else f"{stem}-{name}"
        self.line(f"\n![{alt}]({name}.png)")
        return self.path.with_name(f"{name}.png")

    def write(self):
        """Put this section into the file."""
        if self.path is None:
            return
        sections = {}
        if self.path.exists():
            text = self.path.read_text("utf-8")
            parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)[1:]
            sections = dict(zip(parts[::2], parts[1::2], strict=True))
        sections[self.title] = "\n" + "\n".join(self.lines) + "\n\n"
        text = HEAD + "".join(
            f"## {title}\n{sections[title]}" for title in SECTIONS if title in sections
        )
        self.path.write_text(text.rstrip() + "\n", "utf-8")
        say(f"written: {self.path.name}, section {self.title!r}")
