"""Counts and percentages as text, with no more digits than the counts support."""

from __future__ import annotations


def percentage(count: float, total: int) -> str:
    """``count`` of ``total`` in per cent, with as many decimals, at most two, as a single one changes: ``92%``, ``90.3%``."""
    decimals = min(2, max(0, len(str(total - 1)) - 2))
    return f"{count / total:.{decimals}%}"


def out_of(count: int, total: int, what: str) -> str:
    """``11 of 12 images``; from a hundred on also as a percentage, as in ``324 of 359 images (90.3%)``."""
    text = f"{count:,} of {total:,} {what}"
    return f"{text} ({percentage(count, total)})" if total >= 100 else text


def how_many_trained(parameters: int, trained: int) -> str:
    """``167,178 (all trained)``, or ``3,374,851 (3,843 trained)``."""
    return f"{parameters:,} ({'all' if trained == parameters else f'{trained:,}'} trained)"
