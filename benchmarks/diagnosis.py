"""How often a diagnosis is right: fits spoiled by known mistakes, and ordinary fits.

    python benchmarks/diagnosis.py FOLDER                    all, over an hour
    python benchmarks/diagnosis.py FOLDER --half tune --rows 1000 --seeds 1   minutes
    python benchmarks/diagnosis.py FOLDER --mistakes "adam 0.1,outliers" -o new.json
    python benchmarks/diagnosis.py new.json --compare old.json    tables, no fits
    python benchmarks/diagnosis.py FOLDER --overhead         the cost of recording

FOLDER holds tabular sets, NAME.npz: `X_num` (float, missing NaN), `X_cat` (codes,
missing -1), `y`, and `kind` ('binary', 'multiclass' or 'regression'). mistakes.py has
the mistakes. A quarter of the rows judges: no fit and no diagnosis sees them. A fifth
of the others is held out by the user and given to the diagnosis, if it takes any.

A spoiled fit counts if its score (accuracy, or R2) is more than 0.02 below that of a
clean fit. Its cause is named if one of the first two problems that the diagnosis finds
has a code of the mistake. The first advice is followed, and the new fit is judged, too.
A problem of an ordinary fit is false if nothing that was tried is better: neither the
advice by 0.01, nor another ordinary fit of this set or a linear model by 0.02. Every
second set is for tuning, the others are for the report. All but the clock in what is
shown during the run is the same every time.
"""

import argparse
import inspect
import json
import pickle
import sys
import time
import warnings
import zlib
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import sklearn.compose
import sklearn.impute
import sklearn.pipeline
import sklearn.preprocessing
import threadpoolctl
from mistakes import MISTAKES, ORDINARY, case, load, network, worst
from sklearn.base import clone, is_regressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.discovery import all_estimators

import cbp
from cbp.diagnosis import diagnose
from cbp.estimators import DivergenceError

LOST = 0.02  # a score below another one by more than this is worse
ADVISED_WORSE = 0.01  # and so is one after an advice
FLOW_PAIRS = 7  # of fits with and without recording
PROBLEM = "illness"

# ---- one case: fit, ask, follow the advice, judge


def ask(model, X_val, y_val):
    """The diagnosis, and whether it looked at held-out rows."""
    if "X_val" in inspect.signature(diagnose).parameters:
        return diagnose(model, X_val, y_val), True
    return diagnose(model), False


def claims_success(record):
    """Whether the reader takes this for a good model."""
    problem = any(severity == PROBLEM for _, severity in record["findings"])
    success = record["verdict"].startswith(("Healthy", "Training went well"))
    return success and not problem


def names():
    """What an expression may use: numpy, cbp and the tools of scikit-learn."""
    found = dict(all_estimators())
    for module in (
        sklearn.compose,
        sklearn.impute,
        sklearn.pipeline,
        sklearn.preprocessing,
    ):
        found |= {name: getattr(module, name) for name in module.__all__}
    own = {name: getattr(cbp, name) for name in cbp.__all__}
    return found | own | {"np": np, "cbp": cbp}


def follow(advice, model, X, y, X_val, y_val):
    """The fitted model of a user who did what the advice says."""
    try:
        compile(advice, "advice", "eval")
        is_call = True
    except SyntaxError:  # name=value, ...
        is_call = False
    if not is_call:
        settings = eval(f"dict({advice})", names())
        return clone(model).set_params(**settings).fit(X, y)
    fits = ".fit(" in advice or ".partial_fit(" in advice
    given = {"X": X, "y": y, "w": np.ones(len(y)), "X_val": X_val, "y_val": y_val}
    given["model"] = model if fits else clone(model)
    made = eval(advice, names() | given)
    return made if fits else made.fit(X, y)


def fitted(model, X, y):
    """Whether the fit left a model."""
    try:
        model.fit(X, y)
    except DivergenceError:
        return False
    return True


def judged(model, given, X_test=None):
    X, y = given.test
    return given.metric(model, X if X_test is None else X_test, y)


def linear_score(given):
    regressor = is_regressor(given.estimator)
    linear = Ridge() if regressor else LogisticRegression(max_iter=300)
    return judged(make_pipeline(StandardScaler(), linear).fit(*given.fit), given)


def advised_score(advice, model, given):
    (X, y), X_test = given.fit, None
    if given.unscaled is not None and "make_pipeline" in advice:
        X, X_test = given.unscaled
    try:
        return judged(follow(advice, model, X, y, *given.val), given, X_test)
    except DivergenceError:
        return worst(given.metric)


def examine(given, record):
    """Fill in the record of a case, step by step: an error keeps what is known."""
    model = clone(given.estimator)
    ended = fitted(model, *given.fit)
    record["before"] = judged(model, given) if ended else worst(given.metric)
    record["linear"] = linear_score(given)
    diagnosis, record["held out"] = ask(model, *given.val)
    record["verdict"] = diagnosis.verdict
    record["findings"] = [[found.code, found.severity] for found in diagnosis.findings]
    if diagnosis.findings:
        record["advice"] = advice = diagnosis.findings[0].advice
        record["after"] = advised_score(advice, model, given)


def run_set(path, n_rows, seed, wanted):
    """All cases of a set and a seed, as a list of records."""
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    threadpoolctl.threadpool_limits(1)
    data = load(path, n_rows, seed)
    clean = case(data)
    default = judged(clean.estimator.fit(*clean.fit), clean)
    records = []
    for name in wanted:
        make = ORDINARY[name] if name in ORDINARY else MISTAKES[name].make
        if name in MISTAKES and data.kind not in MISTAKES[name].kinds:
            continue
        record = {"set": data.name, "kind": data.kind, "case": name, "seed": seed}
        try:
            given = make(data, np.random.default_rng([seed, zlib.crc32(name.encode())]))
            if given is None:  # not for this set
                continue
            record["clean"] = default
            if given.clean is not None:
                model = given.clean.estimator.fit(*given.clean.fit)
                record["clean"] = judged(model, given.clean)
            examine(given, record)
        except Exception as error:
            record["error"] = f"{type(error).__name__}: {error}"
        records.append(_rounded(record))
    return records


def _rounded(record):
    return {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in record.items()
    }


# ---- all cases


def run(args, paths, wanted):
    """Records of all cases; the file args.output grows during the run."""
    tasks = [(path, seed) for seed in range(args.seeds) for path in paths]
    start, records = time.perf_counter(), []
    pool = joblib.Parallel(n_jobs=args.jobs, return_as="generator_unordered")
    calls = (
        joblib.delayed(run_set)(path, args.rows, seed, wanted) for path, seed in tasks
    )
    for done, found in enumerate(pool(calls), 1):
        records = sorted(records + found, key=_key)
        minutes = (time.perf_counter() - start) / 60
        name = f"{found[0]['set']}, seed {found[0]['seed']}" if found else "nothing"
        print(
            f"{done}/{len(tasks)}  {minutes:.1f} min  {name}: {len(found)} cases, "
            f"{sum('error' in record for record in found)} errors",
            file=sys.stderr,
            flush=True,
        )
        if args.output:
            Path(args.output).write_text(json.dumps(records, indent=0) + "\n", "utf-8")
    return records


def _key(record):
    return record["set"], record["seed"], record["case"]


def halves(paths):
    """'tune' or 'report' for every set: by turns, within each kind of task."""
    found, turns = {}, {}
    for path in paths:
        with np.load(path) as file:
            kind = str(file["kind"])
        turns[kind] = turns.get(kind, -1) + 1
        found[path.stem] = ("tune", "report")[turns[kind] % 2]
    return found


# ---- the judgement of records


def problems(record):
    return [code for code, severity in record["findings"] if severity == PROBLEM]


def named(record, n=None):
    """Whether a code of the mistake is among the first n problems; None: among all
    findings, notes too."""
    codes = problems(record)[:n] if n else [code for code, _ in record["findings"]]
    return any(code in MISTAKES[record["case"]].codes for code in codes)


def lost(record):
    return record["clean"] - record["before"] > LOST


def advised(record):
    """'better', 'equal', 'lower', 'worse', or '' without advice."""
    if "after" not in record:
        return ""
    gain = record["after"] - record["before"]
    if gain > ADVISED_WORSE:
        return "better"
    return "worse" if gain < -ADVISED_WORSE else "lower" if gain < 0 else "equal"


def false_claim(record):
    return claims_success(record) and record["linear"] - record["before"] > LOST


def false_problem(record, best):
    """best: the highest score of the ordinary fits and linear models of a set."""
    known = best[record["set"], record["seed"]] - record["before"] > LOST
    return bool(problems(record)) and not known and advised(record) != "better"


def best_of_ordinary(records):
    best = {}
    for record in records:
        if record["case"] in ORDINARY:
            key = record["set"], record["seed"]
            best[key] = max(best.get(key, -1), record["before"], record["linear"])
    return best


# ---- tables


def share(part, whole):
    """'9/10', or '90.0 % (18/20)' of many."""
    if whole < 20:
        return f"{part}/{whole}" if whole else ""
    return f"{100 * part / whole:.1f} % ({part}/{whole})"


def table(head, rows):
    for row in [head, ["---"] * len(head), *rows]:
        print("| " + " | ".join(map(str, row)) + " |")
    print()


def advice_cells(records):
    """Of those with advice: better by 0.01, better or equal, worse by 0.01."""
    outcomes = [advised(record) for record in records]
    n = len(outcomes) - outcomes.count("")
    better, equal = outcomes.count("better"), outcomes.count("equal")
    # A gain below 0.01 counts as equal, a loss below 0.01 as lower.
    return [
        share(better, n),
        share(better + equal, n),
        share(outcomes.count("worse"), n),
    ]


def spoiled_row(title, records):
    hurt = [record for record in records if lost(record)]
    return [
        title,
        len(records),
        len(hurt),
        share(sum(named(record, 1) for record in hurt), len(hurt)),
        share(sum(named(record, 2) for record in hurt), len(hurt)),
        share(sum(named(record) for record in hurt), len(hurt)),
        *advice_cells(hurt),
        share(sum(map(false_claim, records)), len(records)),
    ]


def ordinary_row(title, records, best):
    return [
        title,
        len(records),
        share(sum(bool(problems(record)) for record in records), len(records)),
        share(sum(false_problem(record, best) for record in records), len(records)),
        *advice_cells(records),
        share(sum(map(false_claim, records)), len(records)),
    ]


ADVICE = ["advice better", "better or equal", "worse"]
CLAIM = "success claimed below linear"


def show(title, records):
    print(f"## {title}: {len({record['set'] for record in records})} sets\n")
    whole = [record for record in records if "error" not in record]
    informed = sum(record["held out"] for record in whole)
    print(f"Held-out rows were looked at in {informed} of {len(whole)} fits.\n")
    spoiled = [record for record in whole if record["case"] in MISTAKES]
    if spoiled:
        named_at = ["named first", "first two", "anywhere"]
        groups = {}
        for record in spoiled:
            groups.setdefault(record["case"], []).append(record)
        rows = [
            spoiled_row(f"{name} ({MISTAKES[name].group})", groups[name])
            for name in MISTAKES
            if name in groups
        ]
        rows.append(spoiled_row("**all**", spoiled))
        table(["mistake", "fits", "lost", *named_at, *ADVICE, CLAIM], rows)
    ordinary = [record for record in whole if record["case"] in ORDINARY]
    if ordinary:
        best = best_of_ordinary(ordinary)
        rows = [
            ordinary_row(name, [r for r in ordinary if r["case"] == name], best)
            for name in ORDINARY
        ]
        rows.append(ordinary_row("**all**", ordinary, best))
        table(["ordinary fit", "fits", "a problem", "false", *ADVICE, CLAIM], rows)
    for record in records:
        if "error" in record:
            print(f"error: {_key(record)}: {record['error']}\n")


def outcome(record):
    """What `compare` compares."""
    if "error" in record:
        return "error"
    codes = " ".join(problems(record)) or "no problem"
    cause = "" if record["case"] in ORDINARY else f", named: {named(record, 2)}"
    advice = record.get("advice", "no advice")
    return f"{codes}{cause}; {advice}: {advised(record)}"


def compare(old, new):
    """Print the cases whose outcome changed."""
    before = {_key(record): record for record in old}
    changes = []
    for record in new:
        earlier = before.get(_key(record))
        if earlier is not None and outcome(earlier) != outcome(record):
            name, seed, title = _key(record)
            changes.append([name, seed, title, outcome(earlier), outcome(record)])
    print(f"## {len(changes)} of {len(new)} cases changed\n")
    table(["set", "seed", "case", "before", "now"], changes)


# ---- what recording costs

NETWORKS = [  # set, parameters
    ("letter", dict()),
    ("adult", dict(hidden_layer_sizes=(64, 32))),
    ("magic", dict(hidden_layer_sizes=(32,), batch_size=32)),
    ("satimage", dict(hidden_layer_sizes=(256, 256))),
    ("spambase", dict(activation="tanh", batch_size=64)),
    ("mfeat_factors", dict(hidden_layer_sizes=(64,) * 8, activation="logistic")),
    ("diamonds", dict(hidden_layer_sizes=(100, 50))),
    ("protein", dict(solver="sgd", batch_size=64)),
    ("power_plant", dict(solver="lbfgs")),
]


def overhead(args, paths):
    """Fits with and without recording, in turn; sizes of what it leaves."""
    import measure

    print(f"## The cost of recording ({measure.pin_single()})\n")
    warnings.simplefilter("ignore")
    rows = []
    found = {path.stem: path for path in paths}
    for name, parameters in NETWORKS:
        if name not in found:
            print(f"{name}: no such set\n")
            continue
        data = load(found[name], args.rows, seed=0)
        X, y = data.fit.X, data.fit.y
        models = {
            kind: network(data, monitor=kind, max_iter=100, **parameters)
            for kind in (True, False)
        }
        calls = {kind: partial(models[kind].fit, X, y) for kind in models}
        taken = measure.alternate(calls, FLOW_PAIRS, clock=time.process_time)
        ratios = np.divide(taken[True], taken[False])
        low, cost, high = np.quantile(ratios, [0.25, 0.5, 0.75]) - 1
        size = len(pickle.dumps(models[True])) - len(pickle.dumps(models[False]))
        said = " ".join(f"{k}={v}" for k, v in parameters.items())
        spread = f"{low:+.1%} … {high:+.1%}"
        rows.append(
            [name, said, models[True].n_iter_, f"{cost:+.1%}", spread, f"{size:,}"]
        )
    table(["set", "parameters", "epochs", "cost", "quartiles", "bytes"], rows)


# ---- the command


def arguments():
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("data", type=Path, help="folder of NAME.npz, or results to show")
    made.add_argument("--sets", help="names, with commas between them")
    made.add_argument("--mistakes", help="names or groups, or 'ordinary'")
    made.add_argument("--seeds", type=int, default=2, help="how many (2)")
    made.add_argument("--rows", type=int, default=3000, help="at most, of a set (3000)")
    made.add_argument("--jobs", type=int, default=2, help="processes (2)")
    made.add_argument("--half", choices=["tune", "report", "all"], default="all")
    made.add_argument("-o", "--output", help="file for the results, JSON")
    made.add_argument("--compare", type=Path, help="earlier results: show changes")
    made.add_argument("--overhead", action="store_true", help="time recording instead")
    return made.parse_args()


def chosen(text, known, what):
    """What the names in a text with commas stand for, each member once."""
    wanted = [name.strip() for name in text.split(",")] if text else known
    if unknown := [name for name in wanted if name not in known]:
        sys.exit(f"no such {what}: {', '.join(unknown)}; there are {', '.join(known)}")
    return list(dict.fromkeys(member for name in wanted for member in known[name]))


def wanted_cases(text):
    known = {"ordinary": list(ORDINARY)}
    for name, mistake in MISTAKES.items():
        known.setdefault(mistake.group, []).append(name)
    return chosen(text, known | {n: [n] for n in [*ORDINARY, *MISTAKES]}, "mistake")


def main():
    args = arguments()
    if args.data.is_file():
        records = json.loads(args.data.read_text("utf-8"))
    else:
        paths = sorted(args.data.glob("*.npz"))
        side = halves(paths)
        sets = chosen(args.sets, {path.stem: [path] for path in paths}, "set")
        if args.overhead:
            overhead(args, sets)
            return
        sets = [path for path in sets if args.half in ("all", side[path.stem])]
        records = run(args, sets, wanted_cases(args.mistakes))
        for record in records:
            record["half"] = side[record["set"]]
        if args.output:
            Path(args.output).write_text(json.dumps(records, indent=0) + "\n", "utf-8")
    for half in ("tune", "report"):
        if found := [record for record in records if record["half"] == half]:
            show(f"For {'tuning' if half == 'tune' else 'the report'}", found)
    if args.compare:
        compare(json.loads(args.compare.read_text("utf-8")), records)


if __name__ == "__main__":
    main()
