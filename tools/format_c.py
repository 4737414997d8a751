"""Formats C files, or with --check shows what is not formatted.

    python tools/format_c.py --check src_c/*.[ch]

clang-format with .clang-format, told that every file is C: of a header it guesses the
language, and takes one with vector intrinsics for Objective-C.
"""

import difflib
import subprocess
import sys
from pathlib import Path

MAX_COLUMNS = 88  # clang-format leaves long comments and strings alone


def formatted(path, text):
    command = ["clang-format", f"--assume-filename={path.with_suffix('.c')}"]
    # The clang-format of this environment, before any other on the PATH.
    command[0] = str(Path(sys.executable).with_name(command[0]))
    run = subprocess.run(command, input=text, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(run.stderr)
    return run.stdout


def main(arguments):
    check = "--check" in arguments
    wrong = 0
    for path in (Path(name) for name in arguments if name != "--check"):
        text = path.read_text("utf-8")
        new = formatted(path, text)
        if check:
            difference = difflib.unified_diff(
                text.splitlines(), new.splitlines(), str(path), "formatted", lineterm=""
            )
            for line in difference:
                print(line)
        elif new != text:
            path.write_text(new, "utf-8")
        wrong += check and new != text
        for number, line in enumerate(new.splitlines(), 1):
            if len(line) > MAX_COLUMNS:
                print(f"{path}:{number}: {len(line)} columns, at most {MAX_COLUMNS}")
                wrong += 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
