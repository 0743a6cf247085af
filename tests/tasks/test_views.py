"""Test-time augmentation, held against probabilities averaged by hand over images mirrored and padded by torch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import zoo as library
from zoo.core.errors import UserError
from zoo.datamodules.bases.images import ImageData
from zoo.tasks.views import views_of
from zoo.training.test_time import average_views


def shifted_by_padding(images: torch.Tensor, down: int, right: int) -> torch.Tensor:
    most = max(abs(down), abs(right))
    padded = F.pad(images.float(), (most,) * 4, mode="reflect")
    height, width = images.shape[2:]
    return padded[:, :, most - down :, most - right :][:, :, :height, :width].to(images.dtype)


def test_views_are_mirrored_and_shifted_images():
    images = torch.randint(0, 256, (5, 3, 64, 40), dtype=torch.uint8)
    shifts = [(0, 0), (2, 1), (-2, -1)]  # a 32nd of each side
    expected = [shifted_by_padding(images, *shift) for shift in shifts]
    both = [(), (-2,), (-1,), (-1, -2)]
    for tags, mirrors in ((["moves"], [()]), (["mirrors-x", "moves"], [(), (-1,)]), (["mirrors-x", "mirrors-y", "moves"], both)):
        views = [view(images) for view in views_of(tags, 64, 40)]
        assert torch.equal(views[0], images)
        wanted = [each.flip(axes) for axes in mirrors for each in expected]
        assert len(views) == len(wanted) and all(torch.equal(*pair) for pair in zip(views, wanted, strict=True))
    assert len(views_of([], 64, 40)) == 1
    tiny = torch.randint(0, 256, (2, 1, 1, 2), dtype=torch.uint8)
    assert [view(tiny).shape for view in views_of(["moves"], 1, 2)] == [tiny.shape] * 3


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network for mirrored and shifted digits, which is not what digits are by themselves."""
    folder = tmp_path_factory.mktemp("views")
    settings = {"data.augment": "crop:1,hflip", "model.hidden_sizes": [16], "trainer.monitor_every_n_steps": 0}
    library.train("mlp", epochs=1, name="flipped", runs=folder, settings=settings)
    return folder


def by_hand(run, images: torch.Tensor) -> torch.Tensor:
    """Mean probabilities [N, classes] over the image and its two shifts by one pixel, each also mirrored."""
    both = [view for down in (0, 1, -1) for view in [shifted_by_padding(images, down, down)]]
    both += [view.flip(-1) for view in both]
    model = run.model
    with torch.inference_mode():
        return torch.stack([model(model.normalize(view)).softmax(1) for view in both]).mean(0)


def test_metrics_and_predictions_are_of_mean_probabilities(trained: Path):
    plain, averaged = (library.load("flipped", runs=trained, tta=tta) for tta in (False, True))
    data = library.create_data("digits")
    data.prepare_data()
    data.setup()
    split = data.splits["test"]
    images, labels = split.images.pixels, split.labels
    expected = by_hand(plain, images)
    tested = averaged.test()
    assert tested.details["views"] == 6
    assert tested["test/accuracy"] == pytest.approx(float((expected.argmax(1) == labels).double().mean()))
    assert tested["test/loss"] == pytest.approx(float(F.nll_loss(expected.log(), labels)), rel=1e-4)
    assert plain.test()["test/loss"] != pytest.approx(tested["test/loss"], rel=1e-4)
    (prediction,) = averaged.predict(images[0], top=1)
    probability, guess = expected[0].max(0)
    assert prediction.name == str(int(guess)) and prediction.probability == pytest.approx(float(probability), abs=1e-5)


def test_the_commands_say_that_views_were_averaged(zoo, trained: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ZOO_RUNS", str(trained))
    assert ", mean of 6 views: test/accuracy" in zoo("test", "flipped", "--tta").out
    results = [json.loads(zoo("test", "flipped", "--json", *more).out) for more in ((), ("--tta",))]
    assert "views" not in results[0] and results[1]["views"] == 6
    assert results[0]["test/loss"] != results[1]["test/loss"]


def test_a_calibrated_network_averages_calibrated_probabilities(trained: Path):
    run = library.load("flipped", runs=trained, tta=True)
    task = run._open()
    logits = torch.randn(6, 20, 10, generator=torch.Generator().manual_seed(0)) * 3
    task.spec = replace(task.spec, temperature=2.5)
    expected = (logits / 2.5).softmax(2).mean(0)
    torch.testing.assert_close(task.predictions(task.merge_views(logits)), expected)


@pytest.mark.parametrize(
    ("model", "given", "told"),
    [
        ("mlp", {"data.augment": "jitter"}, "mirrored and shifted images.*data.augment=jitter"),
        ("mlp", {"data.augment": "none"}, "mirrored and shifted images.*data.augment=none"),
        ("char-lstm", {}, "probabilities of classes of images"),
        ("mlp", {"data": "rings"}, "probabilities of classes of images"),
        ("mlp", {"data.augment": "light"}, "data.augment=light"),
    ],
)
def test_a_network_that_knows_no_views_is_refused(model: str, given: dict, told: str):
    data = given.pop("data", None)
    module = library.create_data(data or ("digits" if model == "mlp" else "pydoc"))
    options = {"hidden_size": 4} if model == "char-lstm" else {"hidden_sizes": [4]}
    task = library.create_model(model, spec=module.spec, **options)
    section = {"name": data or ("digits" if model == "mlp" else "pydoc"), **{key[5:]: value for key, value in given.items()}}
    with pytest.raises(UserError, match=told):
        average_views(library.scan(), task, model, section)


def test_presets_depend_on_the_size_where_a_data_set_has_none_of_its_own():
    class Digits(ImageData):
        standard = "crop:1"

    assert ImageData.transforms_of("standard", 32) == "crop:4,hflip" and ImageData.transforms_of("light", 224) == "hflip"
    assert ImageData.transforms_of("standard", 224).startswith("resized-crop") and "trivial" in ImageData.transforms_of(
        "strong", 224
    )
    assert Digits.transforms_of("standard", 224) == "crop:1" and Digits.transforms_of("crop:2", 224) == "crop:2"
    assert Digits.transforms_of("strong", 224) == ImageData.transforms_of("strong", 224)
