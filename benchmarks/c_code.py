"""Size and speed of a network as C, beside emlearn's page of scikit-learn's network.

    python benchmarks/c_code.py        64-32-10, digits, on this machine
    python benchmarks/c_code.py --arm  sizes for Cortex-M, too (arm-none-eabi-gcc)

Needs a C compiler; emlearn is left out if it is not installed.
"""

import argparse
import subprocess
import tempfile
import warnings
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

import cbp

HOST = ["-O2", "-O3", "-O2 -mfma", "-O3 -mfma -mavx2"]
ARM = {
    "Cortex-M3": "-mcpu=cortex-m3 -mthumb",
    "Cortex-M4": "-mcpu=cortex-m4 -mthumb -mfloat-abi=hard -mfpu=fpv4-sp-d16",
}
PROGRAM = """#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <time.h>
#include "{page}"
static const {real} rows[{n}][64] = {{{rows}}};
static double now(void) {{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * t.tv_sec + t.tv_nsec;
}}
int main(void) {{
    double best = 1e30;
    volatile long sum = 0;
    for (int turn = 0; turn < 15; turn++) {{
        double t = now();
        for (int i = 0; i < {n}; i++) sum += {call};
        t = (now() - t) / {n};
        if (t < best) best = t;
    }}
    printf("%.0f", best);
    return 0;
}}
"""


def pages(folder, X, y):
    """Of each page its name, file, type of rows, a call, and where headers are."""
    found = []
    for dtype, real in (("float32", "float"), ("float64", "double")):
        model = cbp.BPClassifier((32,), precision=dtype, max_iter=40, random_state=0)
        page = folder / f"{dtype}.c"
        cbp.to_c(model.fit(X, y), page)
        found.append((f"cbp {dtype}", page, real, "cbp_predict(rows[i])", "."))
    try:
        import emlearn
    except ImportError:
        return found
    model = MLPClassifier((32,), max_iter=40, random_state=0).fit(X.astype("f4"), y)
    code = emlearn.convert(model, method="inline", dtype="float")
    code.save(file=str(folder / "network.h"), name="network")
    page, call = folder / "emlearn.c", "network_predict(rows[i], 64)"
    page.write_text(
        '#include "network.h"\nint run(const float *x);\n'
        "int run(const float *x) { return network_predict(x, 64); }\n"
    )
    return [*found, ("emlearn", page, "float", call, emlearn.includedir)]


def nanoseconds(folder, page, real, call, headers, options, X):
    items = ",".join("{" + ",".join(map(repr, row)) + "}" for row in X.tolist())
    source, program = folder / "time.c", folder / "time"
    text = PROGRAM.format(page=page.name, real=real, n=len(X), rows=items, call=call)
    source.write_text(text)
    command = ["gcc", "-std=gnu11", *options.split(), f"-I{headers}", source]
    subprocess.run([*command, "-o", program, "-lm"], check=True)
    return subprocess.run([program], capture_output=True, text=True).stdout


def bytes_of(folder, page, headers, options):
    made = folder / "size.o"
    command = ["arm-none-eabi-gcc", *options.split(), f"-I{headers}", "-c", page]
    subprocess.run([*command, "-o", made], check=True)
    size = ["arm-none-eabi-size", made]
    text, data, bss = subprocess.run(
        size, capture_output=True, text=True
    ).stdout.split()[6:9]
    return int(text) + int(data), int(data) + int(bss)


def main(arm):
    warnings.simplefilter("ignore")
    X, y = load_digits(return_X_y=True)
    X = X / np.float64(16)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, page, real, call, headers in pages(folder, X, y):
            for options in HOST:
                time = nanoseconds(folder, page, real, call, headers, options, X)
                print(f"{title:12} gcc {options:17} {time:>6} ns for a row")
            for cpu, options in ARM.items() if arm else ():
                flash, ram = bytes_of(folder, page, headers, f"-Os {options}")
                print(f"{title:12} {cpu}, -Os: flash {flash}, RAM {ram} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arm", action="store_true", help="sizes for Cortex-M, too")
    main(parser.parse_args().arm)
