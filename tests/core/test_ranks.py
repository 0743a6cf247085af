"""Who decides and speaks where several processes train together."""

from __future__ import annotations

import os
import sys

import pytest

from zoo.core.errors import UserError
from zoo.core.ranks import (
    LOCAL_VARIABLES,
    RANK_VARIABLES,
    error_print,
    is_first_of_machine,
    is_follower,
    rank_zero_print,
    require_valid_launch,
)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {*RANK_VARIABLES, *LOCAL_VARIABLES}:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "follows"),
    [
        ({}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "0"}, False),
        ({"LOCAL_RANK": "1"}, True),
        ({"RANK": "3", "LOCAL_RANK": "0"}, True),
        ({"NODE_RANK": "1"}, True),  # Lightning, started by hand on the second machine
        ({"SLURM_PROCID": "2"}, True),
        ({"RANK": ""}, False),
        ({"RANK": "x"}, False),  # what it is not is refused where it matters
    ],
)
def test_all_but_the_first_process_of_the_first_machine_follow(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], follows: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_follower() is follows


@pytest.mark.parametrize(
    ("variables", "is_first"),
    [({}, True), ({"NODE_RANK": "1"}, True), ({"SLURM_PROCID": "8", "SLURM_LOCALID": "0"}, True), ({"LOCAL_RANK": "1"}, False)],
)
def test_the_first_process_of_every_machine_tells_errors(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], is_first: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_first_of_machine() is is_first


@pytest.mark.parametrize(("name", "value"), [("RANK", "x"), ("LOCAL_RANK", "-1"), ("WORLD_SIZE", "2.5"), ("MASTER_PORT", "²")])
def test_a_variable_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    require_valid_launch()
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{name}={value}: must be a number"):
        require_valid_launch()


@pytest.mark.parametrize("port", ["0", "65536"])
def test_a_number_that_is_no_port_is_named(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("MASTER_PORT", "65535")
    require_valid_launch()
    monkeypatch.setenv("MASTER_PORT", port)
    with pytest.raises(UserError, match=f"MASTER_PORT={port}: must be a port"):
        require_valid_launch()


def test_a_closed_terminal_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", buffering=1) as closed:
        monkeypatch.setattr(sys, "stderr", closed)
        rank_zero_print("interrupted")
        error_print("error")
        os.dup2(os.open(os.devnull, os.O_WRONLY), write)  # else closing fails, too
