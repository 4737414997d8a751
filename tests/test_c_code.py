"""Networks as C: the page compiles without a warning and gives the bits of predict."""

import ctypes
import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from fits import fitted
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import cbp
from cbp import BPClassifier, BPRegressor, _c_text
from cbp._catalog import ACTIVATIONS

pytestmark = pytest.mark.thread_unsafe(reason="it compiles into one folder")

ROOT = Path(__file__).parents[1]
STRICT = "-std=c99 -O2 -Wall -Wextra -Wpedantic -Wconversion -Wdouble-promotion "
STRICT += "-Wmissing-prototypes -Werror"
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
COMPILERS = COMPILERS or [name for name in ("cc",) if shutil.which(name)]
needs_compiler = pytest.mark.skipif(
    os.name != "posix" or not COMPILERS, reason="needs a C compiler"
)
every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])

RNG = np.random.RandomState(0)
# Rows of common size, and some that make units saturate and probabilities vanish.
X = np.concatenate([RNG.randn(250, 5), 40 * RNG.randn(40, 5), 1e3 * RNG.randn(30, 5)])
SCORES = X @ RNG.randn(5, 3)


def with_fma():
    """The option for an instruction that fuses, where this CPU has one, else none."""
    try:
        return ["-mfma"] if " fma " in Path("/proc/cpuinfo").read_text() else []
    except OSError:
        return []


class Compiled:
    """The functions of a page, for many rows at once."""

    def __init__(self, model, folder, options=(), compiler=None, name="cbp"):
        page = folder / f"{len(list(folder.iterdir()))}.c"
        library = page.with_suffix(".so")
        cbp.to_c(model, page, name)
        command = [compiler or COMPILERS[0], *STRICT.split(), *options]
        command += ["-shared", "-fPIC", page, "-o", library, "-lm"]
        subprocess.run(command, check=True)
        self.library, self.name = ctypes.CDLL(str(library)), name
        self.dtype = model._fitted._network.dtype
        assert ctypes.c_int.in_dll(self.library, f"{name}_same_bits").value == 1

    def index(self, X):
        function = getattr(self.library, f"{self.name}_predict")
        rows = np.ascontiguousarray(X, self.dtype)
        return [function(ctypes.c_void_p(row.ctypes.data)) for row in rows]

    def __call__(self, function, X, n, dtype=None):
        function = getattr(self.library, f"{self.name}_{function}")
        function.restype = None
        rows = np.ascontiguousarray(X, self.dtype)
        out = np.full((len(rows), n), 77, dtype or self.dtype)
        for row, place in zip(rows, out, strict=True):
            function(*(ctypes.c_void_p(a.ctypes.data) for a in (row, place)))
        return out


def same(a, b):
    b = np.asarray(b)
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b.reshape(a.shape))


def classifier(y, dtype="float64", X=X, **parameters):
    chosen = {"hidden_layer_sizes": (9, 4), "max_iter": 8, "random_state": 0}
    return fitted(BPClassifier(**chosen | parameters, precision=dtype), X, y)


def regressor(y, dtype="float64", **parameters):
    chosen = {"hidden_layer_sizes": (6,), "max_iter": 8, "random_state": 0}
    return fitted(BPRegressor(**chosen | parameters, precision=dtype), X[:250], y)


# ---- the same bits


@needs_compiler
@every_dtype
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_has_the_bits_of_the_estimator(tmp_path, activation, dtype):
    model = classifier(SCORES.argmax(1), dtype, activation=activation)
    rows = X.astype(dtype)
    for options in ([], with_fma()):
        page = Compiled(model, tmp_path, options)
        same(page("decision_function", rows, 3), model.decision_function(rows))
        same(page("predict_proba", rows, 3), model.predict_proba(rows))
        assert page.index(rows) == model.predict(rows).tolist()


COLUMNS = np.column_stack([SCORES.argmax(1), (SCORES[:, :2] > 0).sum(1), [5] * len(X)])
TARGETS = {
    "two classes": ((SCORES[:, 0] > 0).astype(int), {}),
    "focal loss": ((SCORES[:, 0] > 0).astype(int), {"focal_gamma": 2.0}),
    "one class": (np.zeros(len(X), int), {}),
    "squared error": (SCORES.argmax(1), {"loss": "squared_error"}),
    "two classes, squared": (SCORES.argmax(1) > 1, {"loss": "squared_error"}),
    "strings": (np.array(["no */ end", "/* é", "??/"])[SCORES.argmax(1)], {}),
    "multilabel": ((SCORES > 0).astype(int), {}),
    "columns": (COLUMNS, {}),
    "columns, squared": (COLUMNS, {"loss": "squared_error"}),
}


@needs_compiler
@every_dtype
@pytest.mark.parametrize("kind", TARGETS)
def test_every_kind_of_labels_has_the_bits_of_the_estimator(tmp_path, kind, dtype):
    y, parameters = TARGETS[kind]
    model = classifier(y, dtype, activation=("tanh", "relu"), **parameters)
    rows, page = X.astype(dtype), Compiled(model, tmp_path)
    p, labels = model.predict_proba(rows), model.predict(rows)
    p = np.hstack(p) if isinstance(p, list) else p
    logits = model.decision_function(rows)
    same(page("decision_function", rows, logits.size // len(rows)), logits)
    same(page("predict_proba", rows, p.shape[1]), p)
    if isinstance(model.classes_, list):
        places = page("predict", rows, 3, np.int32)
        for j, classes in enumerate(model.classes_):
            assert classes[places[:, j]].tolist() == labels[:, j].tolist()
    elif labels.ndim == 2:
        assert page("predict", rows, 3, np.int32).tolist() == labels.tolist()
    else:
        assert model.classes_[page.index(rows)].tolist() == labels.tolist()


LOSSES = {
    "squared_error": {},
    "absolute_error": {},
    "huber": {"huber_delta": 0.5},
    "quantile": {"quantile": (0.1, 0.5, 0.9)},
    "poisson": {},
    "gamma": {},
    "tweedie": {"power": 1.2},
}


@needs_compiler
@every_dtype
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_of_a_regressor_has_the_bits_of_the_estimator(tmp_path, loss, dtype):
    y = np.abs(SCORES[:250, 0]) + 0.1
    model = regressor(y, dtype, loss=loss, **LOSSES[loss])
    rows = X[:250].astype(dtype)
    predicted = model.predict(rows)
    n = predicted.size // len(rows)
    same(Compiled(model, tmp_path)("predict", rows, n), predicted)


@needs_compiler
@pytest.mark.parametrize("layers", [(), (1,), (3, 70, 2, 5, 1, 8)], ids=str)
def test_any_number_of_layers_and_outputs_has_the_bits(tmp_path, layers):
    model = regressor(SCORES[:250], hidden_layer_sizes=layers, activation="tanh")
    same(Compiled(model, tmp_path)("predict", X, 3), model.predict(X))


@needs_compiler
@every_dtype
@pytest.mark.parametrize(
    "compiler, options",
    [*itertools.product(COMPILERS, ["-O0", "-Os", "-O3", "-O3 -std=gnu11 -mfma"])],
)
def test_no_option_but_fast_math_changes_a_bit(tmp_path, compiler, options, dtype):
    if "-mfma" in options and not with_fma():
        pytest.skip("this CPU has no fma")
    model = classifier(SCORES.argmax(1), dtype, activation=("gelu", "mish"))
    rows = X.astype(dtype)
    page = Compiled(model, tmp_path, options.split(), compiler)
    same(page("predict_proba", rows, 3), model.predict_proba(rows))


@needs_compiler
def test_fast_math_is_told(tmp_path):
    # A program of its own: a library of this kind makes subnormals 0 in all of Python.
    page, main, program = (tmp_path / name for name in ("page.c", "main.c", "main"))
    cbp.to_c(classifier(SCORES.argmax(1)), page)
    main.write_text('#include "page.c"\nint main(void) { return cbp_same_bits; }\n')
    for options, told in ([], 1), (["-ffast-math"], 0):
        command = [COMPILERS[0], *STRICT.split(), *options, main, "-o", program, "-lm"]
        subprocess.run(command, check=True)
        assert subprocess.run([program]).returncode == told


@needs_compiler
@every_dtype
def test_an_emulated_fma_rounds_once(tmp_path, dtype):
    """Against fma of the C library, with numbers that almost cancel each other."""
    real = {"float32": "float", "float64": "double"}[dtype]
    text = _c_text.FMA[dtype == "float64"].replace("NAME_", "own_")
    fma = "fma" if dtype == "float64" else "fmaf"
    source = tmp_path / "fma.c"
    source.write_text(
        f"#include <math.h>\n#include <stdint.h>\n#include <string.h>\n"
        f"#define own_HAS_FMA 0\n#define __MINGW32__\n{text}\n"
        f"int differs({real} a, {real} b, {real} c);\n"
        f"int differs({real} a, {real} b, {real} c) {{\n"
        f"    {real} x = own_fma(a, b, c), y = {fma}(a, b, c);\n"
        "    return memcmp(&x, &y, sizeof x);\n}\n"
    )
    library = tmp_path / "fma.so"
    command = [COMPILERS[0], "-std=c99", "-O1", "-ffp-contract=off", "-shared", "-fPIC"]
    subprocess.run([*command, source, "-o", library, "-lm"], check=True)
    differs = ctypes.CDLL(str(library)).differs
    number = ctypes.c_double if dtype == "float64" else ctypes.c_float
    differs.argtypes = [number] * 3
    rng = np.random.RandomState(1)
    a, b = rng.randn(2, 20000).astype(dtype)
    c = rng.randn(20000).astype(dtype)
    c[::3] = -(a * b)[::3]
    c[1::3] *= np.exp2(rng.randint(-60, 60, len(c[1::3]))).astype(dtype)
    a[::5] = np.round(a[::5] * 8) / 8
    assert not any(map(differs, a.tolist(), b.tolist(), c.tolist()))
    special = [0.0, -0.0, 1.0, np.inf, 3e38 if dtype == "float32" else 1e308]
    for triple in itertools.product(special, repeat=3):
        with np.errstate(all="ignore"):
            if np.isfinite(np.prod(triple[:2]) + triple[2]):
                assert not differs(*triple), triple


@pytest.mark.skipif(not (ROOT / "src_c").is_dir(), reason="the sources are not here")
def test_constants_are_those_of_the_kernels():
    """Each #define and table of _c_text.py stands in src_c with the same numbers."""
    headers = ("vmath.h", "kernels.h", "activations.h", "vec.h")
    text = "\n".join((ROOT / "src_c" / name).read_text("utf-8") for name in headers)
    for name, both in _c_text.CONSTANTS.items():
        if name in ("SIGN_BIT", "SQRT_HALF"):
            continue
        held = re.findall(rf"^#define {name} (.*?)(?:/\*.*)?$", text, re.M)
        held = [re.sub(r"\(real\)|[()f ]", "", number) for number in held]
        ours = [re.sub(r"[()f ]", "", number) for number in both]
        assert held, name
        assert sorted(set(map(_value, held))) == sorted(set(map(_value, ours))), name
    for name, both in _c_text.TABLES.items():
        table = re.search(rf"real {name}\[\] = {{(.*?)}};", text, re.S)[1]
        double, single = table.split("#else")
        for part, ours in ((single, both[0]), (double, both[1])):
            held = re.findall(r"-?0x[0-9a-f.]+p[-+]?\d+", part)
            assert [*map(_value, held)] == [*map(_value, ours.split())], name


def _value(text):
    text = text.rstrip("f") if "0x" in text and "p" in text else text
    return float.fromhex(text) if "0x" in text else float(text)


ARM = shutil.which("arm-none-eabi-gcc"), shutil.which("qemu-system-arm")
HARD = "-mthumb -mfloat-abi=hard"
MACHINES = {
    "cortex-m3": ("mps2-an385", "-mcpu=cortex-m3 -mthumb"),
    "cortex-m4": ("mps2-an386", f"-mcpu=cortex-m4 {HARD} -mfpu=fpv4-sp-d16"),
    "cortex-m7": ("mps2-an500", f"-mcpu=cortex-m7 {HARD} -mfpu=fpv5-d16"),
}


@pytest.mark.skipif(not all(ARM), reason="needs arm-none-eabi-gcc and qemu-system-arm")
@every_dtype
@pytest.mark.parametrize("cpu", MACHINES)
def test_a_microcontroller_gives_the_bits_of_the_estimator(tmp_path, cpu, dtype):
    machine, options = MACHINES[cpu]
    model = classifier(SCORES.argmax(1), dtype, activation=("gelu", "mish"))
    rows = X[::8].astype(dtype)
    cbp.to_c(model, tmp_path / "page.c")
    real = "float" if dtype == "float32" else "double"
    (tmp_path / "case.h").write_text(
        f"typedef {real} real;\n#define N_ROWS {len(rows)}\n#define N_IN 5\n"
        f"#define N_OUT 3\n#define ROWS {{{', '.join(map(str, rows.tobytes()))}}}\n"
    )
    gcc = [ARM[0], "-O2", *options.split()]
    page, program = tmp_path / "page.o", tmp_path / "program.elf"
    source = tmp_path / "page.c"
    subprocess.run([*gcc, *STRICT.split(), "-c", source, "-o", page], check=True)
    places = "-Wl,-e,vectors,-Ttext=0x100,--section-start=.vectors=0"
    places += ",-Tdata=0x20020000,-Tbss=0x20021000"
    start = [
        f"-I{tmp_path}",
        "-nostartfiles",
        "-Wl,-e,vectors",
        "--specs=nosys.specs",
        places,
    ]
    main = ROOT / "tests" / "cortex_m.c"
    subprocess.run([*gcc, *start, main, page, "-o", program, "-lm"], check=True)
    emulator = [ARM[1], "-M", machine, "-nographic", "-monitor", "none"]
    emulator += ["-serial", "none", "-semihosting-config", "enable=on,target=native"]
    done = subprocess.run(
        [*emulator, "-kernel", program], capture_output=True, text=True, timeout=120
    )
    labels = model.predict(rows)
    expected = [
        " ".join([*(item.tobytes().hex() for item in p), f"{label:02x}"])
        for p, label in zip(model.predict_proba(rows), labels, strict=True)
    ]
    assert done.stderr.split("\n")[:-1] == expected


# ---- the page, and the file


def test_the_page_names_classes_and_needs_ascii_only(tmp_path):
    model = classifier(TARGETS["strings"][0])
    cbp.to_c(model, tmp_path / "page.c", name="Shop_2")
    text = (tmp_path / "page.c").read_text("ascii")
    assert "no *\\u002f end" in text and "/\\u002a \\u00e9" in text
    assert "int Shop_2_predict(const double *x);" in text
    assert "cbp_" not in text and "malloc" not in text
    assert max(map(len, text.splitlines())) <= 110


def test_the_page_names_the_columns_of_a_data_frame(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["age", "*/", *"abc"])
    cbp.to_c(classifier(SCORES.argmax(1), X=frame), tmp_path / "page.c")
    text = (tmp_path / "page.c").read_text("ascii")
    assert 'The columns of x: "age", "*\\u002f", "a", "b", "c".' in text


@needs_compiler
def test_weights_that_were_replaced_by_hand_are_exported(tmp_path):
    model = regressor(SCORES[:250, 0])
    model.coefs_[1] = 2 * model.coefs_[1]
    same(Compiled(model, tmp_path)("predict", X, 1), model.predict(X))
    model.coefs_[1] = np.full((6, 1), np.nan)
    with pytest.raises(ValueError, match="NaN"):
        cbp.to_c(model, tmp_path / "page.c")


@needs_compiler
def test_pages_of_several_models_go_into_one_program(tmp_path):
    one, two = classifier(SCORES.argmax(1)), regressor(SCORES[:250, 0], "float32")
    cbp.to_c(one, tmp_path / "one.c", "one")
    cbp.to_c(two, tmp_path / "two.c", "two")
    both = tmp_path / "both.c"
    both.write_text('#include "one.c"\n#include "two.c"\n')
    options = [*STRICT.split(), "-c", both, "-o", tmp_path / "both.o"]
    subprocess.run([COMPILERS[0], *options], check=True)


@pytest.mark.parametrize("name", ["", "2nd", "a-b", "a b", "é", "_x", None, 3, "a;"])
def test_a_name_that_is_no_identifier_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="name must be an identifier of C"):
        cbp.to_c(classifier(SCORES.argmax(1)), tmp_path / "page.c", name)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_told_what_can(tmp_path):
    page = tmp_path / "page.c"
    model = classifier(SCORES.argmax(1))
    with pytest.raises(NotFittedError):
        cbp.to_c(BPClassifier(), page)
    pipeline = make_pipeline(StandardScaler(), model)
    with pytest.raises(TypeError, match=r"cbp\.to_c\(pipeline\[-1\], \.\.\.\)"):
        cbp.to_c(pipeline, page)
    for other in (LogisticRegression(), BPClassifier, None, "model"):
        with pytest.raises(TypeError, match="a fitted BPClassifier or BPRegressor"):
            cbp.to_c(other, page)
    assert not page.exists()


def test_a_path_that_is_no_file_is_refused(tmp_path):
    model = classifier(SCORES.argmax(1))
    with pytest.raises(IsADirectoryError, match="a folder"):
        cbp.to_c(model, tmp_path)
    with pytest.raises(FileNotFoundError):
        cbp.to_c(model, tmp_path / "missing" / "page.c")
    if os.path.exists(os.devnull) and os.name == "posix":
        with pytest.raises(OSError, match="a regular file"):
            cbp.to_c(model, os.devnull)


def test_a_full_disk_leaves_the_old_page_and_nothing_else(tmp_path, monkeypatch):
    model, page = classifier(SCORES.argmax(1)), tmp_path / "page.c"
    page.write_text("old")

    def fails(*args, **kwargs):
        raise OSError(28, "No space left on device")

    for module, name in ((os, "fsync"), (os, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fails)
            with pytest.raises(OSError, match="No space left"):
                cbp.to_c(model, page)
        assert [path.name for path in tmp_path.iterdir()] == ["page.c"]
        assert page.read_text() == "old"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_write_that_fails_on_the_way_leaves_nothing(tmp_path, monkeypatch):
    real_open = os.open

    def open_full(path, flags, *mode):
        handle = real_open(path, flags, *mode)
        if flags & os.O_CREAT:
            full = real_open("/dev/full", os.O_WRONLY)
            os.dup2(full, handle)
            os.close(full)
        return handle

    monkeypatch.setattr(os, "open", open_full)
    with pytest.raises(OSError, match="No space left"):
        cbp.to_c(classifier(SCORES.argmax(1)), tmp_path / "page.c")
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="needs modes and links of POSIX")
def test_a_page_keeps_the_mode_and_the_links_of_the_one_before(tmp_path):
    model, page, link = classifier(SCORES.argmax(1)), tmp_path / "a.c", tmp_path / "b.c"
    page.write_text("old")
    page.chmod(0o640)
    link.symlink_to(page)
    cbp.to_c(model, link)
    assert link.is_symlink() and page.stat().st_mode & 0o777 == 0o640
    assert page.read_text() != "old"
