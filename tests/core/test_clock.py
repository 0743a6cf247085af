"""Durations as text."""

from __future__ import annotations

from zoo.core.clock import format_duration


def test_durations_have_hours_only_where_needed() -> None:
    assert [format_duration(seconds) for seconds in (None, 5, 65.4, 3723)] == ["?", "0:05", "1:05", "1:02:03"]
