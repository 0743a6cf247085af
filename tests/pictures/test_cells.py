"""Texts coloured by cells: activations are those of torch's networks, and the cell that follows the text is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zoo as bestiary
from zoo.pictures.cells import cell_activations, most_selective, text_features

TEXT = 'say "abc de" and\n    then "x"\n'
SPEC = bestiary.TextSpec(tuple(sorted(set(TEXT))))


@pytest.mark.parametrize("name", ["char-rnn", "char-gru", "char-lstm"])
@pytest.mark.parametrize("options", [{}, {"input": "one-hot"}], ids=str)
def test_activations_are_what_torchs_network_has_after_each_character(name: str, options: dict) -> None:
    torch.manual_seed(0)
    task = bestiary.create(name, SPEC, hidden=5, layers=2, **options).eval()
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
    assert features["place in the line"].tolist() == [*range(17), *range(len(TEXT) - 17)]
    inside = "".join(c for c, quoted in zip(TEXT, features["inside quotation marks"], strict=True) if quoted)
    assert inside == '"abc de"x'
    assert features["indentation"][:17].max() == 0 and features["indentation"][-3] == 4


def test_the_cell_that_follows_a_feature_is_found_and_none_where_none_does() -> None:
    features = text_features(TEXT * 20)
    generator = np.random.default_rng(0)
    activations = generator.normal(0, 0.1, (len(TEXT) * 20, 7))
    activations[:, 3] += 0.05 * features["place in the line"]
    activations[:, 5] -= features["inside quotation marks"]
    found = most_selective(activations, features)
    units = {title.split(": ")[1].split(" (")[0]: unit for title, unit in found.items()}
    assert units["place in the line"] == 3 and units["inside quotation marks"] == 5
    title = next(title for title, unit in found.items() if unit == 5)
    expected = np.corrcoef(activations[:, 5], features["inside quotation marks"])[0, 1]
    assert f"{expected:+.2f}" in title
    assert most_selective(generator.normal(0, 1, (len(TEXT) * 20, 7)), features) == {}


def test_the_command_draws_and_refuses_in_one_line(zoo) -> None:
    quick = ("--epochs", "1", "--set", "trainer.limit_train_batches=2", "--set", "model.hidden=8", "--set", "data.chunk=32")
    assert zoo("train", "char-rnn", "--name", "small", *quick).code == 0
    Path("notes.txt").write_text("for x in y:\n    pass\n" * 20)
    answer = zoo("picture", "cells", "small", "--text", "notes.txt", "--units", "0,15")
    assert answer.code == 0 and "small-cells.png" in answer.out, answer.err
    with Image.open("small-cells.png") as picture:
        assert min(picture.size) > 300
    cases = {
        ("--units", "16"): ["16 is not a unit", "0 to 15"],
        ("--units", "a"): ["a is not a unit"],
        ("--text", "nowhere.txt"): ["nowhere.txt", "no such file"],
        ("--metric", "val/loss"): ["cells takes no --metric"],
    }
    for arguments, words in cases.items():
        assert zoo("picture", "cells", "small", *arguments).is_one_line_error(*words), arguments
    Path("notes.txt").write_text("snow \u2603")
    assert zoo("picture", "cells", "small", "--text", "notes.txt").is_one_line_error("does not know", "\u2603")
    assert zoo("train", "softmax", "--epochs", "1", "--name", "linear").code == 0
    assert zoo("picture", "cells", "linear").is_one_line_error("language-modelling", "softmax")
