"""JSON lines are appended, filtered, and followed while another process writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoo.core.errors import UserError
from zoo.core.json_lines import JsonLinesFollower, JsonLinesWriter, read_json_lines


def test_lines_are_read_as_they_grow_and_again_when_truncated(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    lines = JsonLinesFollower(path)
    assert not list(lines.update()) and not lines.is_restarted()
    path.write_text('{"a": 1}\n{"a": 2')
    assert list(lines.update()) == [{"a": 1}], "the other half is not there yet"
    with path.open("a") as file:
        file.write('}\nnonsense\n[1]\n{"a": "é"}\n')
    assert list(lines.update()) == [{"a": 2}, {"a": "é"}] and not lines.is_restarted()
    path.write_text('{"a": 9}\n')
    assert lines.is_restarted() and list(lines.update()) == [{"a": 9}]
    path.unlink()
    assert lines.is_restarted() and not list(lines.update())


@pytest.mark.parametrize(
    "position", ['"step": "x"', '"step": NaN', '"step": 1e400', '"epoch": [1]', '"time": true', f'"step": {"9" * 400}']
)
def test_objects_whose_position_is_no_number_are_damage(tmp_path: Path, position: str) -> None:
    path, damaged = tmp_path / "lines.jsonl", []
    path.write_text(f'{{"a": 1, {position}}}\n{{"a": 2, "step": 3}}\n')
    assert [record["a"] for record in read_json_lines(path, lambda: damaged.append(1))] == [2] and len(damaged) == 1
    assert [record["a"] for record in JsonLinesFollower(path).update()] == [2]


def test_non_finite_numbers_are_null_and_others_are_rounded(tmp_path: Path) -> None:
    file = JsonLinesWriter(tmp_path / "monitors.jsonl", digits=5)
    file.append({"kind": "gradients", "step": 0, "norm": float("nan"), "parameters": {"a": {"norm": 1.23456789}}})
    (line,) = file.path.read_text().splitlines()
    assert json.loads(line) == {"kind": "gradients", "step": 0, "norm": None, "parameters": {"a": {"norm": 1.2346}}}


@pytest.mark.parametrize(("position", "kept"), [(18, [1, 2]), (9, [1]), (10, [1]), (0, []), (None, [1, 2, 3]), (99, [1, 2, 3])])
def test_what_stands_behind_the_position_is_cut_off_when_something_is_appended(
    tmp_path: Path, position: int | None, kept: list[int]
) -> None:
    path = tmp_path / "lines.jsonl"
    before = '{"a": 1}\n{"a": 2}\n{"a": 3}\n{"a": 4'
    path.write_text(before)
    file = JsonLinesWriter(path, position)
    assert path.read_text() == before
    file.append({"a": 9})
    assert [record["a"] for record in read_json_lines(path)] == [*kept, 9]
    assert file.position() == path.stat().st_size
    file.append({"a": 10})
    assert [record["a"] for record in read_json_lines(path)] == [*kept, 9, 10]


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"metrics\.jsonl could not be written: no space left on device"):
        JsonLinesWriter(path).append({"a": 1})


def test_damaged_lines_are_reported_except_for_a_truncated_last_one(tmp_path: Path) -> None:
    path, damaged = tmp_path / "lines.jsonl", []
    path.write_bytes(b'{"a": 1}\n[2]\n\n\xff\n{"a": 3')
    assert list(read_json_lines(path, lambda: damaged.append(1))) == [{"a": 1}] and len(damaged) == 2
    assert not list(read_json_lines(tmp_path / "none.jsonl"))
