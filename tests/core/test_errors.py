"""Hints of messages about unknown names."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from zoo.core.errors import first_line, unknown


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("least", ["min_count", "test"], "did you mean 'min_count'?"),
        ("least", ["root", "test"], "choose from root, test"),  # min_count is not an option here, and test is another thing
        ("width", ["widths"], "did you mean 'widths'?"),
        ("tset", ["root", "test"], "did you mean 'test'?"),
        ("zzz", [], "there is none"),
        ("ONNX", ["hub", "onnx"], "did you mean 'onnx'?"),
        ("Digits", ["digits", "rings"], "did you mean 'digits'?"),  # in another case it is no other name
    ],
)
def test_a_hint_is_the_present_name_or_one_of_similar_spelling(name: str, known: list[str], hint: str) -> None:
    assert str(unknown("option of folder", name, known)) == f"no option of folder {name!r}: {hint}"


def test_the_first_line_of_a_validation_error_names_the_fault_and_not_the_number_of_faults() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(dict[str, int]).validate_python({"mode": "nope"})
    assert first_line(caught.value).startswith("mode: Input should be a valid integer")
    assert first_line(ValueError("one\ntwo")) == "one" and first_line(ValueError()) == "ValueError"
