"""JSON from strangers: exact where it is sound, refused or cleaned where it would hurt."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from botsessions.exceptions import MalformedBody
from botsessions.platforms.body import decode

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=50
)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"{}", {}),
        (b' {"a": [1, 2.5, true, null]} ', {"a": [1, 2.5, True, None]}),
        (b'"\\ud83d\\ude00"', "😀"),
        ('"ключ"'.encode(), "ключ"),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b"1e5", 100_000.0),
    ],
)
def test_json_is_decoded(body: bytes, value: object) -> None:
    assert decode(body) == value


@pytest.mark.parametrize(
    "number",
    [2**53 + 1, 2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**30, 10**400],
)
def test_integers_stay_exact_however_large(number: int) -> None:
    assert decode(str(number).encode()) == number


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"  ", "not JSON"),
        (b"{", "not JSON"),
        (b"{} {}", "not JSON"),
        (b"{}\0", "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b"payload=1", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"NaN", "not JSON"),
        (b"[Infinity]", "not JSON"),
        (b"-Infinity", "not JSON"),
        (b"1e999", "not JSON"),
        (b"9" * 5000, "not JSON"),
        (b'"\\ud800"', "not JSON"),
        (b'"\\udc00\\ud800"', "not JSON"),
        (b'"a\0b"', "not JSON"),
        (b'"\xff"', "not UTF-8"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b'{"\xc3": 1}', "not UTF-8"),
        (b"[" * 65 + b"]" * 65, "nested deeper than 64"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested deeper than 64"),
        (b"[" * 100_000 + b"]" * 100_000, "nested deeper than 64"),
        (b"[" * 100_000, "nested deeper than 64"),
    ],
)
def test_what_is_no_sound_json_is_refused_with_its_reason(body: bytes, reason: str) -> None:
    with pytest.raises(MalformedBody, match=reason):
        decode(body)


def test_depth_counts_levels_and_not_brackets() -> None:
    assert decode(b"[" * 64 + b"]" * 64)
    assert len(decode(b"[" + b"[]," * 1000 + b"{}]")) == 1001
    assert decode(b'["' + b"[" * 1000 + b'"]') == ["[" * 1000]
    assert decode(b"[[]]", max_depth=2) == [[]]
    with pytest.raises(MalformedBody, match="deeper than 2"):
        decode(b"[[[]]]", max_depth=2)
    with pytest.raises(MalformedBody, match="deeper than 0"):
        decode(b"{}", max_depth=0)
    assert decode(b"1", max_depth=0) == 1


def test_nul_characters_are_replaced_in_keys_and_values() -> None:
    body = b'{"a\\u0000": ["\\u0000", {"b": "x\\u0000y\\u0000"}], "n": 0}'
    assert decode(body) == {"a�": ["�", {"b": "x�y�"}], "n": 0}
    assert decode(b'"\\\\u0000"') == "\\u0000"


@settings(deadline=None)  # the machine may be busy
@given(values)
def test_what_python_writes_as_json_comes_back(value: Any) -> None:
    decoded = decode(json.dumps(value).encode())
    assert decoded == without_nul(value)
    assert "\\u0000" not in json.dumps(decoded)


@settings(deadline=None)  # the machine may be busy
@given(st.binary())
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    try:
        decode(body)
    except MalformedBody as refused:
        assert str(refused).startswith("The body is ")  # noqa: PT017


def without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "�")
    if isinstance(value, list):
        return [without_nul(item) for item in value]
    if isinstance(value, dict):
        return {without_nul(key): without_nul(item) for key, item in value.items()}
    return value
