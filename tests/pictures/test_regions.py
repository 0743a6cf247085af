"""Decision regions of networks whose weights are set by hand, and of the standard comparison."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import cdist

import zoo as bestiary
from zoo.pictures.figure import style
from zoo.pictures.plane import class_colors, coordinates, plane_points
from zoo.pictures.regions import Panel, draw_regions, plane_probabilities, region_colors, regions
from zoo.registry.registry import scan
from zoo.spec import ImageSpec

REGISTRY = scan()
TWO = ImageSpec(2, 1, 1, classes=("a", "b"))


def data_set(name: str, **options):
    data = REGISTRY.data_set(name).load()(64, 0, **options)
    data.prepare_data()
    data.setup()
    return data


def linear(weights: list, bias: list, spec: ImageSpec = TWO):
    task = bestiary.create_model("softmax", spec).eval()
    with torch.no_grad():
        task.linear.weight.copy_(torch.tensor(weights) * 2**0.5)  # of two coordinates
        task.linear.bias.copy_(torch.tensor(bias))
    return task


def test_the_inputs_are_the_whole_plane_row_by_row():
    inputs = plane_points()
    assert inputs.shape == (65536, 2, 1, 1) and inputs.dtype == torch.uint8
    assert len(torch.unique(inputs.flatten(1), dim=0)) == 65536
    assert inputs[:2].flatten(1).tolist() == [[0, 0], [1, 0]] and inputs[256].flatten().tolist() == [0, 1]
    places = coordinates(inputs)
    assert places.min() == 0.5 / 256 and places.max() == 255.5 / 256


def test_a_linear_network_divides_the_plane_along_its_line():
    # scores 0 and x + 2y - 1.5 with x and y from 0 to 1: class b above the line
    probabilities = plane_probabilities(linear([[0.0, 0.0], [1.0, 2.0]], [0.0, -1.5]))
    y, x = np.mgrid[0:256, 0:256] / 255
    score = x + 2 * y - 1.5
    assert np.allclose(probabilities[..., 1], 1 / (1 + np.exp(-score)), atol=1e-5)
    clear = np.abs(score) > 1e-5
    assert np.array_equal(probabilities.argmax(2)[clear], (score > 0)[clear])


def test_regions_have_the_color_of_their_class_and_pale_with_doubt():
    colors = class_colors(2)
    probabilities = np.zeros((1, 3, 2))  # sure of class 1, less sure of it, and undecided, which counts as class 0
    probabilities[0, :, 1] = [1.0, 0.75, 0.5]
    probabilities[..., 0] = 1 - probabilities[..., 1]
    shown = region_colors(probabilities)
    strengths = []
    for pixel, color in zip(shown[0], colors[[1, 1, 0]], strict=True):
        strengths.append((1 - pixel) @ (1 - color) / ((1 - color) @ (1 - color)))
        assert pixel == pytest.approx(1 - strengths[-1] * (1 - color))
    assert strengths[0] > strengths[1] > strengths[2] > 0
    assert strengths[1] == pytest.approx((strengths[0] + strengths[2]) / 2)


def test_a_panel_marks_the_misclassified_test_points_where_they_are():
    data = data_set("quadrants", num_samples=200, noise=0.0)
    task = linear([[0.0, 0.0], [50.0, 0.0]], [0.0, -25.0])  # right half: class 1
    panel = Panel("half", data, plane_probabilities(task))
    split = data.splits["test"]
    places = coordinates(split.images.pixels)
    wrong = (places[:, 0] > 0.5) != (split.labels.numpy() == 1)
    assert np.array_equal(panel.wrong.numpy(), wrong) and 50 < wrong.sum() < 150
    assert panel.accuracy == f"{1 - wrong.mean():.1%}"
    with style():
        axes = draw_regions([panel], 1).axes[0]
    train, crosses = axes.collections
    assert np.allclose(crosses.get_offsets(), places[wrong])
    assert np.allclose(crosses.get_facecolors()[:, :3], class_colors(2)[split.labels[panel.wrong].numpy()])
    assert np.allclose(train.get_offsets(), coordinates(data.splits["train"].images.pixels))
    assert np.allclose(train.get_facecolors()[:, :3], class_colors(2)[data.splits["train"].labels.numpy()])
    image = axes.images[0]
    assert image.get_extent() == [0, 1, 0, 1] and image.origin == "lower"
    assert np.allclose(image.get_array()[128, 250], region_colors(panel.probabilities)[128, 250])


def test_on_the_sheet_up_is_up(tmp_path):
    """Where a pixel of the sheet is, not only which array was handed over."""
    from zoo.pictures.figure import write_png

    data = data_set("blobs", num_classes=2, num_samples=8, noise=0.0)
    task = linear([[0.0, 0.0], [0.0, 500.0]], [0.0, -250.0])  # upper half: class 1
    with style():
        figure = draw_regions([Panel("upper", data, plane_probabilities(task))], 1)
        write_png(figure, tmp_path / "upper.png")
        box = figure.axes[0].get_window_extent()
    with Image.open(tmp_path / "upper.png") as picture:
        pixels = np.asarray(picture.convert("RGB")) / 255
    height = len(pixels)
    for up, label in ((0.25, 0), (0.75, 1)):
        for across in (0.1, 0.9):
            row, column = height - (box.y0 + up * box.height), box.x0 + across * box.width
            expected = region_colors(np.eye(2)[[[label]]])[0, 0]
            assert np.abs(pixels[round(row), round(column)] - expected).max() < 0.01


def test_runs_are_drawn_beside_each_other(zoo):
    for name in ("softmax", "mlp"):
        assert zoo("train", name, "--data", "rings", "--epochs", "1", "--name", name).code == 0
    answer = zoo("picture", "regions", "softmax", "mlp")
    assert answer.code == 0 and answer.out.startswith("regions.png: "), answer.err
    with Image.open("regions.png") as picture:
        assert picture.width > 1.4 * picture.height
    assert zoo("picture", "regions", "mlp", "--checkpoint", "last").code == 0


@pytest.mark.slow
def test_the_standard_comparison_leaves_no_runs_behind(zoo, workplace):
    answer = zoo("picture", "regions", "--data", "blobs", "--set", "data.num_samples=60", "--json")
    assert answer.code == 0, answer.err
    assert [path.name for path in workplace.iterdir()] == ["blobs-regions.png"]
    named = [line for line in answer.err.splitlines() if "of 8)" in line]
    assert named[0] == "1-NN, L1 (1 of 8)" and named[-1] == "mlp (8 of 8)"


@pytest.mark.slow
def test_nearest_neighbors_give_each_point_the_class_of_the_nearest(monkeypatch):
    panels: list[Panel] = []
    monkeypatch.setattr("zoo.pictures.regions.draw_regions", lambda drawn, columns: panels.extend(drawn))
    regions(REGISTRY, [], data="spirals", settings=["data.num_samples=60"])
    assert [panel.title for panel in panels] == ["1-NN, L1", "3-NN, L1", "5-NN, L1", "softmax",
                                                 "1-NN, L2", "3-NN, L2", "5-NN, L2", "mlp"]  # fmt: skip
    train = panels[0].data.splits["train"]
    points, labels = train.images.pixels.flatten(1).numpy(), train.labels.numpy()
    for panel, metric in ((panels[0], "cityblock"), (panels[4], "euclidean")):
        distances = cdist(plane_points().flatten(1).numpy(), points, metric)
        is_nearest = distances == distances.min(1, keepdims=True)  # of several at the same distance any may be taken
        said = panel.probabilities.reshape(-1, 3).argmax(1)
        assert ((labels == said[:, None]) & is_nearest).any(1).all()


def test_what_has_no_regions_is_refused_in_one_line(zoo, workplace):
    assert zoo("train", "softmax", "--epochs", "1", "--name", "first").code == 0
    assert zoo("train", "softmax", "--data", "blobs", "--epochs", "1", "--name", "points").code == 0
    cases = {
        ("first",): ["first was trained on images (digits)", "train on blobs,", "spirals"],
        (): ["give runs", "blobs"],
        ("--data", "digits"): ["digits is not points in the plane", "spirals"],
        ("--data", "spiral"): ["no data set 'spiral'", "'spirals'"],
        ("--data", "spirals", "--set", "data.nois=1"): ["'noise'"],
        ("--data", "spirals", "--set", "recipe.lr=1"): ["recipe settings do not apply here"],
        ("--data", "spirals", "--checkpoint", "last"): ["--checkpoint needs a run"],
        ("points", "--data", "blobs"): ["omit --data"],
        ("points", "--metric", "val/loss"): ["regions takes no --metric"],
    }
    for arguments, words in cases.items():
        answer = zoo("picture", "regions", *arguments)
        assert answer.is_one_line_error(*words), (arguments, answer)
    assert not list(workplace.glob("*.png"))
