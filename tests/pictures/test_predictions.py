"""Confusion and mistakes, held against scikit-learn and against the loaded network itself."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score
from sklearn.metrics import confusion_matrix as reference

from zoo.pictures import predictions
from zoo.pictures.figure import style
from zoo.pictures.predictions import confusion_counts, draw_confusion, most_confident_mistakes, predict_test_data
from zoo.registry.registry import scan
from zoo.training import building
from zoo.training.checkpoints import read_checkpoint
from zoo.training.run_folder import RunFolder

QUICK = ["--epochs", "2", "--set", "trainer.limit_train_batches=6", "--set", "trainer.accelerator=cpu"]


@pytest.fixture
def trained(zoo) -> RunFolder:
    assert zoo("train", "softmax", *QUICK, "--name", "first").code == 0
    return RunFolder.find("first")


def reference_predictions(folder: RunFolder) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of the test images, by the weights alone: a product of matrices with images of norm 1."""
    checkpoint = read_checkpoint(folder.best)
    data = building.build_data(scan(), folder.read_run())
    pixels = data.splits["test"].images.pixels.flatten(1).double() / 255
    spec, state = checkpoint["bestiary"]["spec"], checkpoint["state_dict"]
    pixels = (pixels - spec["mean"][0]) / spec["std"][0] / pixels.shape[1] ** 0.5
    scores = pixels @ state["linear.weight"].double().T + state["linear.bias"].double()
    return data.splits["test"].labels.numpy(), scores.softmax(1).numpy()


def test_the_matrix_counts_what_the_network_says_of_its_test_images(trained):
    labels, probabilities = reference_predictions(trained)
    tested = predict_test_data(scan(), trained, "best", "", ())
    assert np.allclose(tested.probabilities, probabilities, atol=1e-4)
    counts = confusion_counts(tested)
    assert np.array_equal(counts, reference(labels, probabilities.argmax(1))) and counts.sum() == len(labels)
    assert tested.accuracy == pytest.approx(accuracy_score(labels, probabilities.argmax(1)))
    assert 0 < counts.trace() < counts.sum()


def test_mistakes_are_wrong_and_the_surest_come_first(trained):
    labels, probabilities = reference_predictions(trained)
    tested = predict_test_data(scan(), trained, "best", "", ())
    order = most_confident_mistakes(tested).numpy()
    assert sorted(order) == np.flatnonzero(labels != probabilities.argmax(1)).tolist() and len(order) > 10
    assert (np.diff(probabilities[order].max(1)) <= 1e-4).all()


def test_the_last_checkpoint_and_other_data_can_be_asked(zoo, trained):
    assert zoo("picture", "confusion", "first", "--checkpoint", "last", "-o", "last.png").code == 0
    assert zoo("picture", "confusion", "first", "--data", "digits", "-o", "same.png").code == 0
    assert zoo("picture", "confusion", "first", "--data", "blobs").is_one_line_error("points in the plane", "1x8x8")
    assert zoo("picture", "confusion", "first", "--set", "data.siz=8").is_one_line_error("'size'")
    assert zoo("picture", "confusion", "first", "--set", "data.size=9").is_one_line_error("1x9x9")


def test_the_command_says_accuracy_and_the_commonest_confusion(zoo, trained):
    labels, probabilities = reference_predictions(trained)
    counts = reference(labels, probabilities.argmax(1))
    np.fill_diagonal(counts, 0)
    true, said = np.unravel_index(counts.argmax(), counts.shape)
    answer = zoo("picture", "confusion", "first")
    assert answer.code == 0 and f"most frequent: {true} predicted as {said} ({counts[true, said]} of" in answer.out
    assert zoo("picture", "mistakes", "first").code == 0


@pytest.mark.parametrize(("classes", "numbers"), [(3, True), (20, True), (21, False), (100, False), (150, False)])
def test_a_matrix_of_many_classes_drops_numbers_and_then_names(classes, numbers):
    counts = np.diag(np.full(classes, 7)) + np.eye(classes, k=1, dtype=int)
    names = [f"name of class {index}" for index in range(classes)]
    with style():
        axes = draw_confusion(counts, names, "title").axes[0]
        bar = axes.get_figure().axes[1]
    assert len(axes.texts) == (2 * classes - 1 if numbers else 0)
    assert [label.get_text() for label in bar.get_yticklabels()] == ["0%", "5%", "25%", "50%", "100%"]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert (labels == names) == (classes <= 100)
    shares = axes.images[0].get_array()
    assert shares[0, 0] == 7 / 8 and shares[0, 1] == 1 / 8 and shares[-1, -1] == 1


def test_a_class_without_images_is_no_division_by_zero():
    with style():
        axes = draw_confusion(np.array([[0, 0], [1, 3]]), ["a", "b"], "title").axes[0]
    assert axes.images[0].get_array().tolist() == [[0, 0], [0.25, 0.75]]


def test_mistakes_among_photographs_are_told_by_their_files(zoo, workplace, monkeypatch):
    for label, shade in enumerate((40, 200)):
        for split, count in (("train", 12), ("test", 4)):
            (workplace / "shades" / split / str(label)).mkdir(parents=True)
            for index in range(count):
                place = workplace / "shades" / split / str(label) / f"{label}-{index}.png"
                Image.new("RGB", (4, 4), (shade + index,) * 3).save(place)
    Image.new("RGB", (4, 4), (250,) * 3).save(workplace / "shades" / "test" / "0" / "0-2.png")  # is in the wrong folder
    (workplace / "shades" / "test" / "0" / "0-0.png").write_bytes(b"not an image")
    settings = ["--data", "folder", "--set", "data.root=shades", "--set", "recipe.batch_size=8", "--set", "recipe.lr=0.1"]
    titles = []
    drawn = predictions.draw_tiles

    def noted(images, of_tiles, heading, side):
        titles.extend(of_tiles)
        return drawn(images, of_tiles, heading, side)

    monkeypatch.setattr(predictions, "draw_tiles", noted)
    for memory in ("2", "0"):
        kept = f"data.memory_gb={memory}"
        assert zoo("train", "softmax", *settings, "--epochs", "20", "--set", kept, "--name", f"held-{memory}").code == 0
        answer = zoo("picture", "mistakes", f"held-{memory}")
        assert answer.code == 0 and f"; the most confident is {Path('shades/test/0/0-2.png')}\n" in answer.out, answer
    assert [title.splitlines()[0] for title in titles] == ["true 0", "true 0"]
    assert all(re.fullmatch(r"predicted 1 \(\d+%\)", title.splitlines()[1]) for title in titles)
    assert [title.splitlines()[2] for title in titles] == ["0-2.png", "0-2.png"]


def test_points_are_no_images_to_look_at(zoo, workplace):
    assert zoo("train", "mlp", "--data", "blobs", *QUICK, "--name", "points").code == 0
    assert zoo("picture", "mistakes", "points").is_one_line_error("points", "zoo picture regions points")
    assert not list(workplace.glob("*.png"))
    assert zoo("picture", "confusion", "points").code == 0


def test_a_perfect_network_has_no_mistakes_to_draw(zoo, workplace):
    for name, value in (("dark", 40), ("light", 200)):
        (workplace / "shades" / name).mkdir(parents=True)
        for index in range(20):
            Image.new("RGB", (4, 4), (value + index,) * 3).save(workplace / "shades" / name / f"{index}.png")
    settings = ["--data", "folder", "--set", "data.root=shades", "--set", "recipe.batch_size=8", "--set", "recipe.lr=0.1"]
    assert zoo("train", "softmax", *settings, "--name", "perfect").code == 0
    assert zoo("picture", "mistakes", "perfect").is_one_line_error("perfect makes no mistake on its", "test images")
    assert zoo("picture", "confusion", "perfect").out.startswith("perfect-confusion.png: ")
