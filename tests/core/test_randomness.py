"""Seeds that follow from a position alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zoo.core.randomness import derive_seed

ROOT = Path(__file__).resolve().parents[2]


def test_each_position_has_a_seed_of_its_own():
    purposes, small = ("order", "augment", "step"), range(12)
    seeds = {
        derive_seed(seed, purpose, epoch, step, rank)
        for seed in range(3) for purpose in purposes for epoch in small for step in small for rank in range(4)
    }  # fmt: skip
    assert len(seeds) == 3 * 3 * 12 * 12 * 4


@pytest.mark.parametrize(("one", "other"), [((1, 23), (12, 3)), ((0, "a", 1), (0, "a", 1, 0)), ((0,), (0, ""))])
def test_positions_do_not_run_into_each_other(one, other):
    assert derive_seed(*one) != derive_seed(*other)


def test_seeds_fill_the_range_that_torch_takes():
    seeds = np.array([derive_seed(0, position) for position in range(4000)], dtype=np.float64)
    assert seeds.min() >= 0 and seeds.max() < 2**63
    bits = np.array([[derive_seed(0, position) >> bit & 1 for bit in range(63)] for position in range(4000)])
    # each of the 63 bits is a fair coin, up to five standard deviations
    assert np.abs(bits.mean(0) - 0.5).max() < 5 * 0.5 / np.sqrt(4000)


def test_another_process_derives_the_same_seed():
    code = "from zoo.core.randomness import derive_seed; print(derive_seed(7, 'order', 3, 2))"
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert int(result.stdout) == derive_seed(7, "order", 3, 2)
