from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.units import format_bytes, format_seconds, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "expected"), [("1 KiB", 1024), ("20 GiB", 20 * 1024**3), ("3MiB", 3 * 1024**2), (" 2 TiB ", 2 * 1024**4)]
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["20G", "20", "", "GiB", "1.5 GiB", "-1 GiB", "0 GiB", "20 GB", "20 gib", "1 GiB 2"])
def test_a_size_without_a_proper_unit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write a whole number and one of KiB, MiB, GiB, TiB"):
        parse_size(text)


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("5 min", 300), ("2h", 7200), ("1 d", 86400)])
def test_durations(text: str, expected: int) -> None:
    assert parse_duration(text) == expected


@given(st.text(max_size=20))
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    try:
        assert parse_duration(text) > 0
    except ValueError as error:
        assert "is not a duration" in str(error)


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 1024**3, "5.0 GiB")]
)
def test_bytes_for_people(count: int, expected: str) -> None:
    assert format_bytes(count) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.42, "0.4 s"), (59.9, "59.9 s"), (75, "1 min 15 s"), (3601, "60 min 01 s")]
)
def test_seconds_for_people(seconds: float, expected: str) -> None:
    assert format_seconds(seconds) == expected
