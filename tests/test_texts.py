"""The table of texts: each has its use, and numbers in it are as people write them."""

import ast
import re
import string
from pathlib import Path

import numpy as np
import pytest
from planted import JUDGING, fit_case, healthy, planted

import cbp
from cbp import _texts
from cbp._texts import TEXTS, TITLES, count, percent, plain, say, small
from cbp.diagnosis import diagnose

FOLDER = Path(cbp.__file__).parent
ROOMS = sorted(FOLDER.glob("*.py"))


def calls(name):
    """The first arguments of calls of a function in the package, as syntax trees."""
    for room in ROOMS:
        for node in ast.walk(ast.parse(room.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            called = node.func.id if isinstance(node.func, ast.Name) else ""
            if called in name:
                yield node.args[1 if called == "_found" else 0]


def patterns(node):
    """What a name of a text may be, as regular expressions."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield re.escape(node.value)
    elif isinstance(node, ast.JoinedStr):
        parts = (
            re.escape(part.value) if isinstance(part, ast.Constant) else ".*"
            for part in node.values
        )
        yield "".join(parts)
    elif isinstance(node, ast.IfExp):
        yield from patterns(node.body)
        yield from patterns(node.orelse)


def named():
    """All names that the package gives to `say`, also by a variable."""
    found = {p for node in calls(("say", "_found")) for p in patterns(node)}
    for room in ROOMS:
        for node in ast.walk(ast.parse(room.read_text(encoding="utf-8"))):
            # Through a variable, or an argument: any string that is such a name.
            if room.name == "_texts.py":
                continue
            if isinstance(node, ast.Constant) and node.value in TEXTS:
                found.add(re.escape(node.value))
    return found


def test_every_text_has_a_use():
    used = named()
    unused = [text for text in TEXTS if not any(re.fullmatch(p, text) for p in used)]
    assert unused == []


def test_every_use_has_a_text():
    for node in calls(("say", "_found")):
        for pattern in patterns(node):
            assert any(re.fullmatch(pattern, text) for text in TEXTS), pattern


def codes():
    """The codes of all findings that rules make."""
    found = set()
    for room in ROOMS:
        source = room.read_text(encoding="utf-8")
        found |= set(re.findall(r'Finding\(\s*"([a-z-]+)"', source))
        found |= set(re.findall(r'_fault\(fit, "([a-z-]+)"', source))
    return found


def test_every_code_has_a_title_and_every_title_a_code():
    assert codes() == set(TITLES)


def test_every_code_is_explained_in_the_documentation():
    page = FOLDER.parent / "docs" / "diagnosis.md"
    if not page.exists():
        pytest.skip("The documentation is not beside the package.")
    text = page.read_text(encoding="utf-8")
    headings = set(re.findall(r"^### `([a-z-]+)`", text, re.MULTILINE))
    assert headings == set(TITLES)


def test_texts_are_sentences_and_name_numbers_that_can_be_written():
    kinds = {"", "%", "e", "s", "d", ",", ",.0f", ".0f", ".3f", ".6g", "g"}
    for name, text in TEXTS.items():
        fields = list(string.Formatter().parse(text))
        assert {spec for _, field, spec, _ in fields if field} <= kinds, name
        fragment = name.startswith(("when.", "at.", "since.", "whole.", "judge."))
        fragment |= name.startswith(("units.", "does.")) or name == "nearly"
        if not fragment:
            assert text.endswith((".", "?", ". {since:s}")), name
            assert text[0].isupper() or text[0] == "{" or "=" in text.split()[0], name
    for title in TITLES.values():
        assert title[0].islower() or title.startswith("X "), title
        assert not title.endswith(".")


def test_titles_are_short_enough_for_a_verdict():
    assert max(map(len, TITLES.values())) <= 60


# ---- numbers


@pytest.mark.parametrize(
    "number, written",
    [
        (0.94, "94 %"),
        (1.0, "100 %"),
        (0.999, "99.9 %"),
        (0.99999, "99.9 %"),  # some are missing
        (0.0, "0 %"),
        (-0.00001, "0 %"),
        (-0.003, "-0.3 %"),
        (0.00001, "less than 0.01 %"),
        (0.0041, "0.4 %"),
        (0.53, "53 %"),
        (1.8, "180 %"),
        (180.0, "180 times"),
        (1e40, "10^40 times"),
        (np.inf, "more than 10^38 %"),
        (np.nan, "an unknown share"),
    ],
)
def test_shares_are_written_as_percent(number, written):
    assert percent(number) == written
    if abs(number) < 1e38:
        single = np.float32(number)
        assert percent(single) == percent(float(single))


@pytest.mark.parametrize(
    "number, written",
    [
        (0.0, "0"),
        (6.0, "6"),
        (0.47, "0.47"),
        (0.0012345, "0.0012"),
        (33.333, "33"),
        (126.4, "126"),
        (12345.6, "12,300"),
        (2.5e6, "2.5 million"),
        (3e9, "3 billion"),
        (4e12, "4 trillion"),
        (2e150, "2 * 10^150"),
        (1e150, "10^150"),
        (-1e150, "-10^150"),
        (3e-9, "3 * 10^-9"),
        (-0.5, "-0.5"),
        (np.inf, "more than 10^38"),
        (np.nan, "an unknown number"),
        ("7", "7"),
    ],
)
def test_numbers_have_two_digits_and_no_e(number, written):
    assert plain(number) == written


def test_numbers_of_any_size_are_never_in_code():
    for power in range(-320, 309):
        for digit in (1, -1, 9.96, 2.345):
            x = digit * 10.0**power
            for write in (plain, percent, small):
                written = write(x)
                assert not re.search(r"\de[+-]?\d|-0 %|nan|inf", written), (x, written)
                assert len(written) <= 30


def test_a_number_means_what_it_says():
    units = {"million": 1e6, "billion": 1e9, "trillion": 1e12}
    for x in (0.012345, 0.9876, 1.23, 45.6, 789.1, 4321.0, 98765.0, 3.21e7, 9.87e13):
        number, *unit = plain(x).replace(",", "").split()
        value = float(number) * units.get(unit[0] if unit else "", 1)
        assert value == pytest.approx(x, rel=0.05)


def test_parameters_are_written_as_python_reads_them():
    for alpha in (1e-7, 0.0001, 0.05, 3.0, 1e6, 1e300):
        said = say("constant-prediction.alpha", alpha=alpha)
        number = re.match(r"alpha=(\S+) holds", said).group(1)
        assert float(number) == alpha and "+" not in number


def test_a_share_above_one_is_a_number_of_times():
    said = say("update-too-large", layer=1, ratio=126.0, when="at the start")
    assert "by 126 times their size at the start" in said


def test_hardly_anything_is_less_than_something():
    said = say("vanishing-gradient.only", size=1e-9, layer=1)
    assert said.startswith("Less than 0.01 % of the output layer's error")


def test_nouns_follow_their_number():
    assert (count(1, "epoch"), count(2, "epoch"), count(0, "unit")) == (
        "epoch",
        "epochs",
        "units",
    )


def test_every_place_in_a_text_takes_odd_numbers():
    class Odd(dict):
        def __init__(self, value):
            super().__init__()
            self.value = value

        def __missing__(self, name):
            return self.value

    sentence = _texts._Sentence()
    for value in (0, 1, 3, 10**9):
        for text in TEXTS.values():
            said = sentence.vformat(text, (), Odd(value))
            assert "{" not in said and not re.search(r"\de\+", said), said


# ---- what planted and healthy fits are told


def said_of(case):
    diagnosis = diagnose(fit_case(case))
    yield diagnosis.verdict
    for finding in diagnosis.findings:
        yield finding.message


SPOILED = list(planted(JUDGING))[::4]
SOUND = list(healthy(JUDGING))[::8]


@pytest.mark.parametrize("case", [*SPOILED, *SOUND], ids=str)
def test_messages_are_sentences_without_numbers_in_code(case):
    for text in said_of(case):
        assert not re.search(r"\b(nan|inf|None)\b|-0 %|  ", text), text
        # Parameters stand as they are set: tol=1e-09.
        assert not re.search(r"(?<![=\d.])\d[\d.]*e[+-]?\d", text), text
        assert text[0].isupper() or text[0].isdigit() or "=" in text.split()[0], text
        assert text.endswith((".", "?", ")")), text
        assert "healthy" not in text.lower(), text
