"""Counts as text: few are counted, of many the percentage has the digits that a single one changes."""

from __future__ import annotations

import pytest

from zoo.core.counts import how_many_trained, out_of, percentage


@pytest.mark.parametrize(
    ("count", "total", "text"),
    [
        (11, 12, "11 of 12 images"),
        (0, 1, "0 of 1 images"),
        (99, 99, "99 of 99 images"),
        (50, 100, "50 of 100 images (50%)"),
        (324, 359, "324 of 359 images (90.3%)"),
        (516, 1000, "516 of 1,000 images (51.6%)"),
        (9105, 10000, "9,105 of 10,000 images (91.05%)"),
        (1, 3_000_000, "1 of 3,000,000 images (0.00%)"),
    ],
)
def test_few_are_counted_and_many_also_measured(count: int, total: int, text: str) -> None:
    assert out_of(count, total, "images") == text


@pytest.mark.parametrize("total", [1, 7, 99, 100, 101, 360, 999, 1000, 1001, 9999, 10000])
def test_one_more_changes_the_percentage(total: int) -> None:
    texts = [percentage(count, total) for count in range(total + 1)]
    assert len(set(texts)) == len(texts) and texts[-1].rstrip("0%") in ("1", "100.")


def test_parameters_are_counted_with_how_many_are_trained() -> None:
    assert how_many_trained(167178, 167178) == "167,178 (all trained)"
    assert how_many_trained(3374851, 3843) == "3,374,851 (3,843 trained)"
