"""Texts colored by cells: activations are those of torch's networks, and the cell that follows the text is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zoo as bestiary
from zoo.pictures.cells import WRAPPED, cell_activations, cells, draw_text, most_selective, text_features, unit_name
from zoo.registry.registry import scan
from zoo.training.run_folder import RunFolder

TEXT = 'say "abc de" and\n    then "x"\n'
SPEC = bestiary.TextSpec(tuple(sorted(set(TEXT))))


@pytest.mark.parametrize("name", ["char-rnn", "char-gru", "char-lstm"])
@pytest.mark.parametrize("options", [{}, {"input": "one-hot"}], ids=str)
def test_activations_are_what_torchs_network_has_after_each_character(name: str, options: dict) -> None:
    torch.manual_seed(0)
    task = bestiary.create_model(name, SPEC, hidden_size=5, num_layers=2, **options).eval()
    found = cell_activations(task, TEXT)
    assert found.shape == (len(TEXT), 5 if name == "char-gru" else 10)
    state = None
    with torch.no_grad():
        for row, place in zip(found, SPEC.encode(TEXT), strict=True):
            _, state = task(torch.tensor([[place]]), state)
            values = state[1].tanh() if name == "char-lstm" else state[-1:] if name == "char-gru" else state
            np.testing.assert_allclose(row, values[:, 0].flatten().numpy(), atol=1e-6)


def test_features_are_those_of_the_text() -> None:
    features = text_features(TEXT)
    assert features["position in the line"].tolist() == [*range(17), *range(len(TEXT) - 17)]
    inside = "".join(c for c, quoted in zip(TEXT, features["inside quotation marks"], strict=True) if quoted)
    assert inside == '"abc de"x'
    assert features["indentation"][:17].max() == 0 and features["indentation"][-3] == 4


def test_the_cell_that_follows_a_feature_is_found_and_none_where_none_does() -> None:
    features = text_features(TEXT * 20)
    generator = np.random.default_rng(0)
    activations = generator.normal(0, 0.1, (len(TEXT) * 20, 7))
    activations[:, 3] += 0.05 * features["position in the line"]
    activations[:, 5] -= features["inside quotation marks"]
    found = most_selective(activations, features)
    assert found["position in the line"][0] == 3 and found["inside quotation marks"][0] == 5
    expected = np.corrcoef(activations[:, 5], features["inside quotation marks"])[0, 1]
    assert found["inside quotation marks"][1] == pytest.approx(expected)
    assert most_selective(generator.normal(0, 1, (len(TEXT) * 20, 7)), features) == {}


@pytest.mark.parametrize(
    ("name", "layers", "unit", "expected"),
    [
        ("char-lstm", 2, 12, "layer 2, unit 3 (--units 12)"),
        ("char-rnn", 3, 5, "layer 1, unit 5 (--units 5)"),
        ("char-gru", 2, 3, "layer 2, unit 3"),
        ("char-lstm", 1, 3, "layer 1, unit 3"),
    ],
)
def test_a_unit_is_named_with_its_layer(name: str, layers: int, unit: int, expected: str) -> None:
    task = bestiary.create_model(name, SPEC, hidden_size=9, num_layers=layers).eval()
    assert unit_name(unit, task.recurrent, cell_activations(task, TEXT).shape[1]) == expected


def test_the_drawing_tells_its_colors_and_where_a_line_goes_on() -> None:
    text = "x" * 95 + "\n" + "short\n"
    values = np.linspace(-1, 1, len(text))
    figure = draw_text(text, {"first": values, "second": -values}, "heading", "tanh(c)")
    first, second, bar = figure.axes
    assert [axes.get_title(loc="left") for axes in (first, second)] == ["first", "second"]
    marks = [mark for mark in first.texts if mark.get_text() == WRAPPED]
    assert [mark.get_position()[1] for mark in marks] == [1], "the second row goes on with the first line, the third does not"
    assert bar.get_xlim() == (-1, 1) and "tanh(c)" in bar.get_xlabel() and WRAPPED in bar.get_xlabel()
    assert first.images[0].norm.vmin == -1 and first.images[0].norm.vmax == 1
    assert WRAPPED not in draw_text("short\n", {"first": values[:6]}, "heading", "h").axes[-1].get_xlabel()


def test_what_no_cell_follows_is_told(zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = (
        "--epochs",
        "1",
        "--set",
        "trainer.limit_train_batches=2",
        "--set",
        "model.hidden_size=8",
        "--set",
        "data.seq_len=32",
    )
    assert zoo("train", "char-rnn", "--name", "small", *quick).code == 0
    monkeypatch.setattr("zoo.pictures.cells.most_selective", lambda *_: {"indentation": (9, 0.5)})
    figure = cells(scan(), [RunFolder.find("small")]).figure
    assert figure.axes[0].get_title(loc="left") == "layer 2, unit 1 (--units 9): indentation (correlation +0.50)"
    assert figure.get_suptitle().endswith("no unit correlates with: position in the line, inside quotation marks")


def test_the_command_draws_and_refuses_in_one_line(zoo) -> None:
    quick = (
        "--epochs",
        "1",
        "--set",
        "trainer.limit_train_batches=2",
        "--set",
        "model.hidden_size=8",
        "--set",
        "data.seq_len=32",
    )
    assert zoo("train", "char-rnn", "--name", "small", *quick).code == 0
    Path("notes.txt").write_text("for x in y:\n    pass\n" * 20)
    answer = zoo("picture", "cells", "small", "--text", "notes.txt", "--units", "0,15")
    assert answer.code == 0 and "small-cells.png" in answer.out, answer.err
    with Image.open("small-cells.png") as picture:
        assert min(picture.size) > 300
    cases = {
        ("--units", "16"): ["16 is not a unit", "0 to 15"],
        ("--units", "a"): ["a is not a unit"],
        ("--units", "3,0,3"): ["3 is given twice"],
        ("--text", "nowhere.txt"): ["nowhere.txt", "no such file"],
        ("--metric", "val/loss"): ["cells takes no --metric"],
    }
    for arguments, words in cases.items():
        assert zoo("picture", "cells", "small", *arguments).is_one_line_error(*words), arguments
    Path("notes.txt").write_text("snow \u2603")
    assert zoo("picture", "cells", "small", "--text", "notes.txt").is_one_line_error("unknown characters", "\u2603")
    assert zoo("train", "softmax", "--epochs", "1", "--name", "linear").code == 0
    assert zoo("picture", "cells", "linear").is_one_line_error("language-modeling", "softmax")
