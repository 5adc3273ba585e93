"""Plain YAML: JSON's types, bounded in size, depth and time."""

import math
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from leukemia.errors import QUOTED, InputError, quoted
from leukemia.storage.plain_files import dump_yaml, parse_yaml

KEYS = st.text(max_size=10) | st.integers(-(10**18), 10**18)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False) | st.text(max_size=20)
    | st.sampled_from(["1e-5", "1:30", "yes", "2026-01-01", "0o7", "010", "null", "~", "<<", "=", ".inf", "1_0"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=15,
)  # fmt: skip


@given(value=st.dictionaries(KEYS, VALUES, max_size=5))
def test_what_is_written_is_read_again(value):
    assert parse_yaml(dump_yaml(value), "config.yaml") == value


@given(value=st.dictionaries(st.text(max_size=10), VALUES, max_size=5))
def test_other_readers_of_yaml_agree(value):
    """Hydra and people read config.yaml with YAML 1.1."""
    assert yaml.safe_load(dump_yaml(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        "a: !!bool x", "a: !!float ''", "a: !!timestamp 1", "a: !!binary x", "a: !!set {x}", "!!python/name:os.system",
        "a: !!str 1", "a: &x [1]\nb: *x", "1.5: a", "true: a", "null: a", "? [a]\n: b", "? {a: b}\n: c", "a: 1\na: 2",
        "a: " + "[" * 60, "[" * 100_000, "{a: " * 100_000, "- " * 1000, "a", "", "a: b: c",
    ],
    ids=range(21),
)  # fmt: skip
@pytest.mark.timeout(10)
def test_anything_but_plain_values_is_refused_in_a_line(text):
    with pytest.raises(InputError) as refusal:
        parse_yaml(text, "config.yaml")
    assert "config.yaml" in str(refusal.value)
    assert len(str(refusal.value)) < QUOTED + 100
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "value", ["1:30", "190:20:30.15", "2026-01-01", "2026-01-01 10:00:00", "0x1F", "1_000", "yes"]
)
def test_sexagesimals_and_timestamps_are_text(value):
    assert parse_yaml(f"a: {value}", "config.yaml") == {"a": value}


def test_a_file_of_sexagesimals_is_read_at_once():
    text = "a: [" + "9:" * 150_000 + "9]"
    begin = time.process_time()
    assert len(parse_yaml(text, "config.yaml")["a"][0]) == 300_001
    assert time.process_time() - begin < 2


def test_a_list_that_doubles_itself_is_quoted_in_200_characters():
    doubled: list = []
    for _ in range(60):
        doubled = [doubled, doubled]
    for value in (
        doubled,
        {"a": doubled},
        [doubled] * 100,
        "x" * 10**6,
        10**6000,
        InputError("y " * 10**6),
        math.nan,
    ):
        assert 0 < len(quoted(value)) <= QUOTED
