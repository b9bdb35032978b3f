"""`--transform`: what each path picks, and properties that hold for every value."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handinger.cli.failures import CommandError
from handinger.cli.transform import compile_path

VALUE: Any = {
    "id": "wrk_1",
    "files": [
        {"filename": "a.txt", "size": 3, "tags": ["x", "y"]},
        {"filename": "b.md", "size": 30, "tags": []},
        {"filename": "c.txt", "size": 300, "tags": ["x"], "old": True},
    ],
    "usage": {"costUsd": 0.5, "steps": 2},
    "metadata": {"a.b": 1, "team|x": 2, "*": 3, "né": 4, "7": 5},
    "empty": [],
    "nothing": None,
    "nested": [[1, 2], [3]],
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("id", "wrk_1"),
        ("usage.steps", 2),
        ("nothing", None),
        ("missing", None),
        ("id.deeper", None),
        ("files.1.filename", "b.md"),
        ("files.9", None),
        ("files.-1", None),
        ("files.filename", None),
        ("files.#", 3),
        ("empty.#", 0),
        ("id.#", None),
        ("files.#.filename", ["a.txt", "b.md", "c.txt"]),
        # What is missing is left out.
        ("files.#.old", [True]),
        ("files.#.tags.#", [2, 0, 1]),
        ("files.#.tags.0", ["x", "x"]),
        ("files.#.filename|1", "b.md"),
        ("files.#.tags|@flatten|#", 3),
        ("files.#|@this", 3),
        ('files.#(filename=="b.md").size', 30),
        # A word needs no quotes.
        ("files.#(filename==b.md).size", 30),
        ("files.#(size>=30)#.filename", ["b.md", "c.txt"]),
        ("files.#(size<30)#", [VALUE["files"][0]]),
        ("files.#(size!=30)#.size", [3, 300]),
        ('files.#(filename%"*.txt")#.size', [3, 300]),
        ('files.#(filename!%"*.txt")#.size', [30]),
        ("files.#(old)#.filename", ["c.txt"]),
        ("files.#(old==true).size", 300),
        # In JSON, true is not 1.
        ("files.#(old==1)", None),
        ("files.#(size>1000)", None),
        ("files.#(size>1000)#", []),
        ('files.#(tags.#(=="y")).filename', "a.txt"),
        ('files.0.tags.#(=="y")', "y"),
        ("metadata.a\\.b", 1),
        ("metadata.team\\|x", 2),
        ("metadata.\\*", 3),
        ("metadata.né", 4),
        ("metadata.7", 5),
        ("us*.cost?sd", 0.5),
        ("z*", None),
        ("{id,usage.steps}", {"id": "wrk_1", "steps": 2}),
        ('{"the id":id,cost:usage.costUsd}', {"the id": "wrk_1", "cost": 0.5}),
        ("{id,missing}", {"id": "wrk_1"}),
        ("[id,usage.steps]", ["wrk_1", 2]),
        ("files.#.{filename,n:tags.#}|0", {"filename": "a.txt", "n": 2}),
        ("usage.@keys", ["costUsd", "steps"]),
        ("usage.@values", [0.5, 2]),
        ("files.@reverse.0.filename", "c.txt"),
        ("nested.@flatten", [1, 2, 3]),
        ("@this.id", "wrk_1"),
    ],
)
def test_a_path_picks(path: str, expected: Any):
    assert compile_path(path)(VALUE) == expected


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "empty"),
        ("a..b", "a step is empty"),
        ("a.", "a step is empty"),
        ("a.#(b", r"\) is missing"),
        ("{a", "} is missing"),
        ("[a}", "] is missing"),
        ('#(a=="b)', '" is missing'),
        ("@nonsense", "there are only @this"),
        ('{"a"}', "a name in quotes"),
        ("#(a)b", "a query is"),
    ],
)
def test_what_is_no_path_is_refused(path: str, why: str):
    with pytest.raises(CommandError, match=why):
        compile_path(path)


keys = st.text(min_size=1, max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


def escaped(key: str) -> str:
    return "".join("\\" + character for character in key)


@settings(max_examples=40)
@given(key=keys, value=json_values, rest=st.dictionaries(keys, json_values, max_size=3))
def test_any_key_can_be_named(key: str, value: Any, rest: dict[str, Any]):
    assert compile_path(escaped(key))({**rest, key: value}) == value


@settings(max_examples=40)
@given(values=st.lists(json_values, max_size=6))
def test_arrays_are_counted_gone_through_and_turned(values: list[Any]):
    assert compile_path("#")(values) == len(values)
    assert compile_path("#.@this")(values) == values
    assert compile_path("@reverse|@reverse")(values) == values
    for place, value in enumerate(values):
        assert compile_path(str(place))(values) == value


@settings(max_examples=40)
@given(values=st.lists(st.integers(-5, 5), max_size=8), limit=st.integers(-5, 5))
def test_a_query_and_its_opposite_share_an_array(values: list[Any], limit: int):
    above = compile_path(f"#(>{limit})#")(values)
    below = compile_path(f"#(<={limit})#")(values)
    assert isinstance(above, list)
    assert isinstance(below, list)
    assert sorted([*above, *below], key=str) == sorted(values, key=str)
    assert compile_path(f"#(>{limit})")(values) == next(iter(above), None)


@settings(max_examples=40)
@given(path=st.text(alphabet='ab01.|#@()[]{}*?\\"=<>!%,: ', max_size=16), value=json_values)
def test_any_text_is_a_path_or_a_clear_error(path: str, value: Any):
    try:
        pick = compile_path(path)
    except CommandError:
        return
    pick(value)
