"""JSON lines are appended, filtered, and followed while another process writes them."""

from __future__ import annotations

import json
from pathlib import Path

from zoo.core.json_lines import JsonLinesFollower, append_json_line, filter_json_lines, read_json_lines


def test_lines_are_read_as_they_grow_and_again_when_truncated(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    lines = JsonLinesFollower(path)
    assert lines.update() == []
    path.write_text('{"a": 1}\n{"a": 2')
    assert lines.update() == [{"a": 1}], "the other half is not there yet"
    with path.open("a") as file:
        file.write('}\nnonsense\n[1]\n{"a": "é"}\n')
    assert lines.update() == [{"a": 1}, {"a": 2}, {"a": "é"}]
    path.write_text('{"a": 9}\n')
    assert lines.update() == [{"a": 9}]


def test_non_finite_numbers_are_null_and_rejected_lines_are_dropped(tmp_path: Path) -> None:
    file = tmp_path / "monitors.jsonl"
    for step in (0, 4, 16):
        parameters = {"a": {"norm": 1.23456789}}
        append_json_line(file, {"kind": "gradients", "step": step, "norm": float("nan"), "parameters": parameters}, digits=5)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[0]["norm"] is None and lines[0]["parameters"]["a"]["norm"] == 1.2346
    file.write_text(file.read_text() + '{"kind": "gra')
    filter_json_lines(file, lambda record: record["step"] < 16)
    assert [record["step"] for record in read_json_lines(file)] == [0, 4]


def test_damaged_lines_are_reported_except_for_a_truncated_last_one(tmp_path: Path) -> None:
    path, damaged = tmp_path / "lines.jsonl", []
    path.write_bytes(b'{"a": 1}\n[2]\n\n\xff\n{"a": 3')
    assert list(read_json_lines(path, lambda: damaged.append(1))) == [{"a": 1}] and len(damaged) == 2
    assert not list(read_json_lines(tmp_path / "none.jsonl"))
