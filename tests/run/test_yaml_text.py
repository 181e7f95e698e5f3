"""YAML 1.2's core schema: its numbers and words, what is refused, and back to text again."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindspore_thor.run.yaml_text import (
    MAX_CHARACTERS,
    MAX_DEPTH,
    MAX_VALUES,
    MalformedYaml,
    dump_yaml,
    load_yaml,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # Section 10.3.2 of the specification of YAML 1.2.2.
        *[(word, None) for word in ("null", "Null", "NULL", "~", "")],
        *[(word, True) for word in ("true", "True", "TRUE")],
        *[(word, False) for word in ("false", "False", "FALSE")],
        *[("0", 0), ("0o7", 7), ("0x3A", 58), ("-19", -19), ("+12", 12), ("012", 12), ("0o14", 12)],
        *[("0.", 0.0), ("-0.0", 0.0), (".5", 0.5), ("+12e03", 12000.0), ("-2E+05", -200000.0)],
        *[("1e-3", 0.001), ("5e-2", 0.05), ("1.", 1.0), (".inf", math.inf), ("-.Inf", -math.inf)],
        # Numbers, words and dates of YAML 1.1 only.
        *[(word, word) for word in ("1:30", "190:20:30", "1_000", "0b11", "+0x1F", "-0o7", "1e")],
        *[(word, word) for word in ("yes", "no", "on", "off", "y", "n", "Yes", "NO", "tRUE", "=")],
        *[(word, word) for word in ("2001-12-14", "2001-12-14t21:59:43.10-05:00", ".", "+", "nan")],
        # Quoted or tagged text is text; so is a block.
        *[("'true'", "true"), ('"3"', "3"), ("!!str 3", "3"), ("! 3", "3"), ("|\n 3\n", "3\n")],
        *[("!!int '3'", 3), ("!!float 3", 3.0), ("!!bool 'true'", True), ("!!null ''", None)],
        *[("[1, 'a', [true]]", [1, "a", [True]]), ("!!map {a: !!seq [1]}", {"a": [1]})],
        (
            "a: &x [1, {b: 2}]\nc: *x\nd: [*x]",
            {"a": [1, {"b": 2}], "c": [1, {"b": 2}], "d": [[1, {"b": 2}]]},
        ),
    ],
)
def test_the_core_schema(text: str, value: Any) -> None:
    found = load_yaml(text)
    assert found == value
    assert type(found) is type(value)


def test_not_a_number_is_one() -> None:
    assert all(math.isnan(load_yaml(word)) for word in (".nan", ".NaN", ".NAN"))


def test_an_alias_is_a_value_of_its_own() -> None:
    tree = load_yaml("a: &x [1]\nb: *x")
    tree["a"].append(2)
    assert tree["b"] == [1]


LAUGHS = "\n".join(
    ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{f'*a{i - 1},' * 9}]" for i in range(1, 30))]
)
NESTED = "\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 30))])


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: &a [*a]", 1, "contains itself"),
        ("a: 1\nb: &b {c: {d: *b}}", 2, "contains itself"),
        ("a: *b", 1, "no anchor before"),
        (LAUGHS, None, f"more than {MAX_VALUES} values"),
        (NESTED, None, f"more than {MAX_DEPTH} levels"),
        ("[" * 5000 + "]" * 5000, 1, ""),  # PyYAML has a limit of its own in newer versions
        ("- " * 5000, 1, f"more than {MAX_DEPTH} levels"),
        ("{a: " * 5000, 1, ""),
        ("? " * 5000, 1, f"more than {MAX_DEPTH} levels"),
        ("x" * (MAX_CHARACTERS + 1), None, "characters"),
        ("[" + "1," * (MAX_VALUES + 1) + "]", 1, f"more than {MAX_VALUES} values"),
        ("[1]: 2", 1, "key [1] is not text"),
        ("? {a: 1}\n: 2", 1, "is not text"),
        ("3: 2", 1, "key 3 is not text"),
        ("null: 2", 1, "key None is not text"),
        ("a: 1\na: 2", 2, "key 'a' appears twice"),
        ("<<: {a: 1}", 1, "'<<' is not known"),
        ("a: !!python/object/apply:os.system [x]", 1, "has no meaning"),
        ("a: !!python/name:os.system x", 1, "has no meaning"),
        ("a: !mine 3", 1, "has no meaning"),
        ("a: !!binary aGk=", 1, "has no meaning"),
        ("a: !!set {b}", 1, "has no meaning"),
        ("a: !!timestamp 2001-12-14", 1, "has no meaning"),
        ("a: !!int x", 1, "does not fit"),
        ("a: !!bool 1", 1, "does not fit"),
        ("a: 1\n---\nb: 2", 2, "second document"),
        ("a: " + "9" * 400, 1, "400 characters"),
        ("a: -" + "9" * 5000, 1, "out of range"),
        ("a: 0x" + "f" * 5000, 1, "out of range"),
        ("a: 9223372036854775808", 1, "out of range"),
        ("a: 1e400", 1, "out of range"),
        ("a: 1e-400", 1, "out of range"),
        ("a: 0." + "1" * 5000, 1, "out of range"),
        ("a: \0", None, "special characters"),
        ('a: "\\UFFFFFFFF"', None, "out of range"),
        ("%YAML " + "9" * 5000 + ".1\n--- a", None, "out of range"),
        ("%YAML 2.0\n--- a", 1, ""),
        ("a: [", 1, ""),
        ("a:\n\tb: 1", 2, ""),
        ("a: 'b", 1, ""),
        ("@", 1, ""),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_refused_and_where(text: str, line: int | None, words: str) -> None:
    with pytest.raises(MalformedYaml) as caught:
        load_yaml(text)
    assert words in caught.value.problem
    if line is not None:
        assert caught.value.line == line


def test_the_limits_themselves_are_allowed() -> None:
    assert load_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert load_yaml("9223372036854775807") == 2**63 - 1
    assert len(load_yaml("[" + "1," * (MAX_VALUES - 1) + "]")) == MAX_VALUES - 1


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=12)
    | st.sampled_from(["1e-3", "0o14", "012", "+.5", "1:30", "yes", "~", "", "0x1", ".inf", "1_0"])
)
KEYS = st.text(max_size=8).filter(lambda key: key != "<<")
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(KEYS, TREES, max_size=4))
def test_what_is_written_reads_back(tree: dict[str, Any]) -> None:
    text = dump_yaml(tree)
    found = load_yaml(text)
    assert found == tree
    assert repr(found) == repr(tree)  # 1, 1.0 and True are equal, but not the same


SIGNS = st.sampled_from(
    [*"{}[]:,-?&*!|>'\"%@`#~<= \n\t\r.0123456789eEabox+_/\\\0\x85\ufeff", "---"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(SIGNS, max_size=40).map("".join) | st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        value = load_yaml(text)
    except MalformedYaml as error:
        assert error.problem
    else:
        assert isinstance(value, (dict, list, str, int, float, bool, type(None)))
