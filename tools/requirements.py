"""Prints requirements from pyproject.toml, one a line, so that they stand only there.

    python tools/requirements.py build run test > requirements.txt

"build" is what building needs, "run" what the installed package needs; every other
name is one of the optional groups. "-polars" leaves polars out.
"""

import sys
import tomllib
from pathlib import Path


def main(groups):
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8")
    config = tomllib.loads(text)
    lists = {
        "build": config["build-system"]["requires"],
        "run": config["project"]["dependencies"],
        **config["project"]["optional-dependencies"],
    }
    unwanted = {name[1:] for name in groups if name.startswith("-")}
    for group in groups:
        if not group.startswith("-"):
            print(*[line for line in lists[group] if line not in unwanted], sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
