"""Loads changed model files by the million: each is refused cleanly, or is a model.

    python tools/fuzz_files.py 100000             # so many mutants
    python tools/fuzz_files.py 10000000 --seed 7

A mutant is a file that `cbp.save` wrote, with one change or some: bits, the end, lines
of the table of tensors, values of the description, weights. Most of them get hashes
that are right again, so that the reader looks at what was changed. Counted are mutants
that load, that are refused by `ModelFileError`, and failures: another exception, more
memory than 2 x file + 16 MiB (measured on every 64th), or a file that is accepted but
that the package safetensors (if installed) refuses. Prints each failure with the number
that makes its mutant again, and ends with 1 if there was one.
"""

import argparse
import hashlib
import json
import random
import re
import struct
import sys
import time
import tracemalloc
import warnings
from collections import Counter

import numpy as np

from cbp import BPClassifier, BPRegressor, NetworkFeatures
from cbp.model_file import ModelFileError, _packed, loads

try:
    from safetensors import SafetensorError, deserialize
except ImportError:
    deserialize = None

# Texts of JSON that a value may become.
LITERALS = """0 1 -1 2 3 4 7 255 4096 65536 2147483648 4294967296 9223372036854775807
18446744073709551616 1e400 1e-400 -0 -0.0 0.5 1.0 3.7 NaN Infinity -Infinity true false
null "" "x" "\\ud800" "\\u0000" "\\u20ac" "F64" "F32" "I64" "U8" "U32" "BOOL" "C64"
"coefs.0" "intercepts.0" "classes_" "softmax" "logistic" "identity" "exp" "log_loss"
"squared_error" "focal_log_loss" "quantile" "relu" "tanh" "adam" "sgd" "lbfgs" [] {}
[[]] [0] [0,0] [1,2,3] {"tuple":[]} {"tuple":[1]} {"tuple":[4,3,3]} {"tuple":3}
{"float":"nan"} {"float":"inf"} {"float":"x"} {"array":"classes_"} {"array":"coefs.0"}
{"floats":"loss_curve_"} {"bytes":"00"} {"bytes":"zz"} {"dict":[]} {"dict":[[1,2]]}
{"dict":[[[],2]]} {"text":["U",9,"classes_"]} {"text":["U",2000000000,"classes_"]}
{"text":["str",0,"feature_names_in_"]} {"time":["M","D",1,"classes_"]}
{"record":"FitSummary","fields":{}} {"record":"Optimizer","fields":{}}
{"record":"os.system","fields":{}} {"generator":{}} 99999999999999999999999999999999
"__main__.Thing" "BPClassifier" "BPRegressor" {"":0,"":0} "{" [[[[[[[[[[0]]]]]]]]]]"""
LITERALS = re.sub(r"\s*\n", " ", LITERALS).split(" ")
LITERALS += ["[" * 100 + "]" * 100, "[" * 2000, "1" * 400, "[" + "0," * 300 + "0]"]
BYTES = [b"\0", b"\xff", b"{", b'"', b"\x7f" * 4, b"\xff" * 8, b"\0" * 8]
BYTES += [struct.pack("<d", x) for x in (np.nan, np.inf, -np.inf, 1e308, 5e-324)]
BYTES += [struct.pack("<q", x) for x in (-1, 2**62, 2**31, 3)]


def spans(text):
    """Where the values of a text of JSON stand, and the pairs of its objects."""
    values, pairs = [], []
    string = re.compile(r'"(?:[^"\\]|\\.)*"')
    scalar = re.compile(r"[^,\]}\s]+")

    def value(at):
        start = at
        if text[at] in "{[":
            opens, at = text[at], at + 1
            while text[at] not in "]}":
                begin = at
                if opens == "{":
                    at = string.match(text, at).end() + 1
                at = value(at)
                if opens == "{":
                    pairs.append((begin, at))
                at += text[at] == ","
            at += 1
        else:
            at = (string if text[at] == '"' else scalar).match(text, at).end()
        values.append((start, at))
        return at

    value(0)
    return values, pairs


class Seed:
    """A file taken apart: its texts, the table of its tensors, its data."""

    def __init__(self, model, optimizer=False):
        header, data = _packed(model, True, optimizer)
        table = json.loads(header[8:])
        self.content = header + data.tobytes()
        self.metadata = table.pop("__metadata__")
        self.config = self.metadata["config"]
        self.table = json.dumps(table, separators=(",", ":"))
        self.data = data.tobytes()
        self.spans = {name: spans(getattr(self, name)) for name in ("config", "table")}


def seeds():
    """Files of small models of several kinds."""
    rng = np.random.RandomState(0)
    X, c = rng.randint(-9, 10, (30, 3)) / 4, rng.randint(0, 3, 30)
    names = np.array(["low", "middle", "top"])[c]
    common = {"max_iter": 3, "random_state": 0}
    small = {**common, "monitor": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield Seed(BPClassifier((4, 3), "tanh", **common).fit(X, names))
        model = BPClassifier(3, class_weight={False: 1, True: 2.5}, **small)
        yield Seed(model.partial_fit(X, c > 0, classes=[False, True]), optimizer=True)
        model = BPClassifier((), loss="squared_error", precision="float32", **small)
        yield Seed(model.fit(X, np.eye(3, dtype=int)[c]))
        several = np.column_stack([names, c.astype(object)])
        model = BPClassifier(2, random_state=np.random.RandomState(1), max_iter=20)
        yield Seed(model.fit(X, several))
        model = BPRegressor("quantile", 3, quantile=(0.1, 0.5), **small)
        yield Seed(model.fit(X, X.sum(1)))
        yield Seed(BPRegressor(hidden_layer_sizes=(2, 2), **small).fit(X, X))
        yield Seed(NetworkFeatures(BPClassifier(2, **small), layer=0).fit(X, names))


def changed_text(rng, text, places, others):
    """One value or one pair replaced, left out or doubled."""
    values, pairs = places
    kind = rng.random()
    if kind < 0.3 and pairs:
        start, end = rng.choice(pairs)
        if kind < 0.1:  # twice
            return f"{text[:end]},{text[start:end]}{text[end:]}"
        if kind < 0.2:  # another pair
            a, b = rng.choice(pairs)
            return text[:start] + text[a:b] + text[end:]
        if text[end] == ",":
            end += 1
        elif text[start - 1] == ",":
            start -= 1
        return text[:start] + text[end:]
    start, end = rng.choice(values)
    if kind < 0.65:
        return text[:start] + rng.choice(LITERALS) + text[end:]
    if kind < 0.9:
        other, (there, _) = others
        a, b = rng.choice(there)
        return text[:start] + other[a:b] + text[end:]
    try:  # a number a little larger or smaller
        number = json.loads(text[start:end])
        near = number + rng.choice((-8, -1, 1, 8)) if type(number) is int else -number
        return text[:start] + json.dumps(near) + text[end:]
    except (TypeError, ValueError):
        return text[:start] + rng.choice(LITERALS) + text[end:]


def changed_bytes(rng, content):
    """Bits, bytes or the end of some bytes."""
    if not content:
        return b"\0"
    at, kind = rng.randrange(len(content)), rng.random()
    if kind < 0.35:
        return (
            content[:at]
            + bytes([content[at] ^ 1 << rng.randrange(8)])
            + content[at + 1 :]
        )
    if kind < 0.7:
        some = rng.choice(BYTES)
        at -= at % len(some)
        return content[:at] + some + content[at + len(some) :]
    if kind < 0.85:
        return content[:at]
    if kind < 0.95:
        return content[:at] + content[rng.randrange(len(content)) :]
    return content + content[:at]


def mutant(seeds, number):
    """The mutant of this number; the same number makes the same one."""
    rng = random.Random(number)
    seed, other = rng.choice(seeds), rng.choice(seeds)
    if rng.random() < 0.15:
        return changed_bytes(rng, seed.content)
    config, table, data = seed.config, seed.table, seed.data
    metadata = dict(seed.metadata)
    places = dict(seed.spans)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        what = rng.random()
        if what < 0.65 and places["config"]:
            others = other.config, other.spans["config"]
            config = changed_text(rng, config, places.pop("config"), others)
            places["config"] = None
        elif what < 0.82 and places["table"]:
            others = other.table, other.spans["table"]
            table = changed_text(rng, table, places.pop("table"), others)
            places["table"] = None
        elif what < 0.95:
            data = changed_bytes(rng, data)
        else:
            key = rng.choice([*metadata])
            metadata[key] = rng.choice(LITERALS + ["2", "1", "12"])
    metadata["config"] = config
    return sealed(rng, metadata, table, data)


def sealed(rng, metadata, table, data):
    """A file of these parts with hashes, of which nearly all are right."""
    if rng.random() < 0.97:
        metadata["data_blake2b"] = hashlib.blake2b(data, digest_size=32).hexdigest()
    metadata["header_blake2b"] = zeros = "0" * 64
    # A change of the table may have left no object to go on with.
    rest = "," + table[1:] if len(table) > 2 and table[0] == "{" else "}"
    header = f'{{"__metadata__":{json.dumps(metadata)}{rest}'.encode(errors="replace")
    header += b" " * (-(8 + len(header)) % (64 if rng.random() < 0.99 else 8))
    at = header.find(b'"header_blake2b": "' + zeros.encode()) + 19
    right = hashlib.blake2b(header, digest_size=32).hexdigest().encode()
    header = header[:at] + right + header[at + 64 :]
    n = len(header) if rng.random() < 0.99 else rng.choice((0, 2**20 + 1, 2**63, 7))
    return struct.pack("<Q", n) + header + data


def memory_of(content):
    """Bytes that loading takes at most, as Python counts them."""
    tracemalloc.start()
    try:
        loads(content)
    except ModelFileError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


def run(n, seed=0, measure=False, say=print):
    """Loads mutants; returns counts, the longest time and the most memory."""
    corpus, counts, slowest, most = [*seeds()], Counter(), 0.0, 0
    for each in corpus:
        assert loads(each.content)
    for number in range(seed << 32, (seed << 32) + n):
        content = mutant(corpus, number)
        start = time.thread_time()
        try:
            model = loads(content)
        except ModelFileError:
            counts["refused"] += 1
            model = None
        except Exception as error:
            counts["failures"] += 1
            say(f"{number}: {type(error).__name__}: {error}")
            continue
        slowest = max(slowest, time.thread_time() - start)
        if model is not None:
            counts["accepted"] += 1
            check_accepted(model, content, number, counts, say)
        if measure and number % 64 == 0:
            peak = memory_of(content)
            most = max(most, peak)
            if peak > 2 * len(content) + 2**24:
                counts["failures"] += 1
                say(f"{number}: {peak} bytes for a file of {len(content)}")
    return counts, slowest, most


def check_accepted(model, content, number, counts, say):
    """What is accepted predicts, and others accept it, too."""
    if deserialize is not None:
        try:
            deserialize(content)
        except SafetensorError as error:
            counts["failures"] += 1
            say(f"{number}: accepted by cbp only: {error}")
    try:
        ask = model.transform if isinstance(model, NetworkFeatures) else model.predict
        ask(np.ones((2, model.n_features_in_)))
    except ValueError as error:
        counts["predictions that overflow"] += 1
        if "overflow" not in str(error):
            counts["failures"] += 1
            say(f"{number}: predict: {error}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("n", type=int, help="mutants")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    counts, slowest, most = run(options.n, options.seed, measure=True)
    seconds = time.perf_counter() - start
    print(
        f"{options.n} mutants, seed {options.seed}: "
        f"{', '.join(f'{counts[name]} {name}' for name in sorted(counts))}; "
        f"{options.n / seconds:.0f} per second, the slowest {slowest * 1e3:.1f} ms, "
        f"at most {most / 2**20:.1f} MiB; safetensors "
        f"{'compared' if deserialize else 'is not installed'}"
    )
    return bool(counts["failures"])


if __name__ == "__main__":
    sys.exit(main())
