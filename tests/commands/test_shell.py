"""Tables and paragraphs as they stand on a terminal."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from zoo.commands import shell

LONG = "the first words of a summary that goes on behind the end of a narrow line"


def test_columns_are_aligned_by_the_width_of_letters_on_a_terminal(capsys) -> None:
    shell.print_table([("猫", "1"), ("cafe\u0301", "10"), ("dog", "7")], ("class", "images"), numbers=("images",))
    lines = capsys.readouterr().out.splitlines()
    assert {cell_len(line) for line in lines} == {len("class  images")} and lines[1].startswith("猫   ")


def test_a_last_column_of_text_is_wrapped_and_other_rows_are_cut(monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    shell.print_table([("first", LONG), ("猫猫", LONG.replace(" ", " 猫"))], ("name", "summary"))
    first, second = capsys.readouterr().out.split("猫猫", 1)
    assert " ".join(first.split()) == f"name summary first {LONG}"
    assert "".join(second.split()) == "".join(LONG.replace(" ", " 猫").split())
    assert all(cell_len(line) <= 40 for line in (first + "猫猫" + second).splitlines())
    assert all(line.startswith(" " * 7) for line in first.splitlines()[2:])
    shell.print_table([(LONG, "1")], ("name", "count"), numbers=("count",))
    shell.print_table([("猫" * 30, "1")], ("name", "count"), numbers=("count",))
    lines = capsys.readouterr().out.splitlines()
    assert all(line.endswith("…") and cell_len(line) <= 40 for line in lines[1::2])


def test_a_preview_of_long_sequences_fits_a_terminal_and_is_whole_in_a_pipe(zoo, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    whole = zoo("data", "preview", "adding-problem").out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    wrapped = zoo("data", "preview", "adding-problem").out
    assert wrapped.split() == whole.split() and max(map(len, wrapped.splitlines())) <= 80 < max(map(len, whole.splitlines()))


PARTS = ["test/accuracy 0.9021", "test/loss 0.4321", "test/calibration_error 0.0123"]


@pytest.mark.parametrize(("width", "rows"), [(None, [3]), (80, [2, 1]), (120, [3]), (40, [1, 1, 1])])
def test_parts_of_a_line_stay_whole(capsys, monkeypatch: pytest.MonkeyPatch, width: int | None, rows: list[int]) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: width is not None)
    monkeypatch.setenv("COLUMNS", str(width))
    shell.echo_parts("mlp on digits:", PARTS)
    lines = capsys.readouterr().out.splitlines()
    assert [sum(part in line for part in PARTS) for line in lines] == rows
    assert all(len(line) <= (width or 999) for line in lines) and lines[0].startswith("mlp on digits: test/accuracy 0.9021")


def test_a_line_without_parts_is_its_start(capsys) -> None:
    shell.echo_parts("mlp on digits:", [])
    assert capsys.readouterr().out == "mlp on digits:\n"
