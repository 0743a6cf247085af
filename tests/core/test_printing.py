"""Whatever a name contains, it is one line on any terminal, and no spreadsheet computes it."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys

import pytest

from zoo.core.printing import LAYOUT, csv_line, json_text, make_output_readable, printable, shell_word


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("title\x1b]0;x\x07", r"title\x1b]0;x\x07"),
        ("a\u202egnp.exe", r"a\u202egnp.exe"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("c1\x9b31m", r"c1\x9b31m"),
        ("line\u2028feed", r"line\u2028feed"),
        ("M\udce4dchen", r"M\xe4dchen"),
        ("Mädchen e\u0301 \u732b 👨\u200d👧", "Mädchen e\u0301 \u732b 👨\u200d👧"),
    ],
)
def test_control_characters_are_shown_escaped_and_letters_as_they_are(name: str, shown: str) -> None:
    assert printable(name) == shown


def test_the_layout_of_a_text_can_be_kept() -> None:
    assert printable("a\n\tb\x1b", kept=LAYOUT) == "a\n\tb\\x1b"


@pytest.mark.parametrize(
    ("cell", "read"),
    [("=cmd()", "'=cmd()"), ("@SUM(A1)", "'@SUM(A1)"), ("+x", "'+x"), ("-x", "'-x"), ("-0.5", "-0.5"), ("+3e5", "+3e5"),
     (-0.5, "-0.5"), ("a,b\"c", "a,b\"c"), ("a\nb", r"a\nb"), ("\t=x", r"'\t=x"), ("cat", "cat")],
)  # fmt: skip
def test_a_cell_is_no_formula_and_a_row_is_one_line(cell: object, read: str) -> None:
    line = csv_line(["1.png", cell])
    assert line.count("\n") == 1 and next(csv.reader([line])) == ["1.png", read]


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "Mu\\xe4 ... =_# \\xe4"), ("cp1252", "Muä … =_# \\xe4")])
def test_output_in_any_encoding_is_readable(monkeypatch: pytest.MonkeyPatch, encoding: str, shown: str) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    make_output_readable()
    print("Muä … ━▁█ \udce4", flush=True)
    assert written.getvalue().decode(encoding).rstrip("\n") == shown


@pytest.mark.parametrize(("encoding", "escaped"), [("ascii", True), ("utf-8", False)])
def test_json_stays_json_in_any_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str, escaped: bool) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    assert ("\\u00e4" in json_text({"a": "ä"})) == escaped
    for value in ({"a": "ä"}, {"a": "\udce4"}, ["\u202e", "\x9b", "\n"]):
        text = json_text(value, indent=2)
        assert json.loads(text) == value and printable(text, kept="\n") == text
        text.encode(encoding)


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
@pytest.mark.parametrize(
    "name", ["a b", "it's", "é", "two\nlines", "it's\ttwo\\n", "caf\udce9s 'x'", "soft\xadhyphen", "a\u2028b"]
)
def test_a_word_for_the_shell_is_printable_and_gives_the_name(name):
    word = shell_word(name)
    assert printable(word) == word
    assert subprocess.check_output(["bash", "-c", f"printf %s {word}"], env={"LC_ALL": "C.UTF-8"}) == os.fsencode(name)
