"""Trainings on unbalanced classes: weights, sampling, and the metric that selects the best checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.config.resolution import resolve
from zoo.config.settings import parse_setting
from zoo.core.json_lines import read_json_lines
from zoo.registry.registry import scan
from zoo.training import engine

SIZES = {"many": 60, "some": 20, "few": 8}
EPOCHS = 4


def train(*settings: str, name: str = "run") -> engine.TrainResult:
    texts = ["data.name=folder", "data.root=photos", f"recipe.epochs={EPOCHS}", "recipe.batch_size=16", "trainer.accelerator=cpu"]
    run = resolve(scan(), "softmax", {}, [parse_setting(text) for text in [*texts, *settings]])
    return engine.train(scan(), run, name, progress=False, monitor=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of another brightness for each class, in splits of three sizes."""
    folder = tmp_path_factory.mktemp("unbalanced")
    draw = np.random.default_rng(0)
    for split, share in {"train": 1.0, "val": 0.5, "test": 0.5}.items():
        for label, (name, size) in enumerate(SIZES.items()):
            (folder / "photos" / split / name).mkdir(parents=True)
            for index in range(round(size * share)):
                pixels = draw.normal(90 + 25 * label, 40, (6, 6)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / "photos" / split / name / f"{index}.png")
    return folder


@pytest.fixture(autouse=True)
def in_the_folder(folder: Path, workplace: Path) -> Iterator[None]:
    (workplace / "photos").symlink_to(folder / "photos")
    yield


def test_a_monitored_metric_selects_the_best_checkpoint_and_weights_follow_from_the_training_split() -> None:
    outcome = train("recipe.class_weights=balanced", "recipe.monitor=val/balanced_accuracy", "recipe.early_stopping_patience=9")
    values = [r["val/balanced_accuracy"] for r in read_json_lines(outcome.folder.metrics_file) if "val/balanced_accuracy" in r]
    assert outcome.best in [pytest.approx(value) for value in values] and len(values) == EPOCHS
    environment = json.loads((outcome.folder.path / "environment.json").read_text())
    assert (environment["monitor"], environment["goal"]) == ("val/balanced_accuracy", "max")
    checkpoint = torch.load(outcome.folder.last, weights_only=True)
    (patience,) = [state for name, state in checkpoint["callbacks"].items() if "Patience" in name]
    assert float(patience["best_score"]) == pytest.approx(max(values)), "early stopping follows it, too"
    expected = [sum(SIZES.values()) / (len(SIZES) * SIZES[name]) for name in outcome.task.spec.classes]
    assert outcome.task.class_weights.tolist() == pytest.approx(expected)
    assert not any("class_weights" in name for name in checkpoint["state_dict"]), "a published state dict fits"


@pytest.mark.parametrize("memory", [2.0, 0.0], ids=["in memory", "in files"])
def test_an_epoch_of_balanced_sampling_has_as_many_steps_with_each_class_equally_often(memory: float) -> None:
    from zoo.datamodules.folder import Folder

    data = Folder(16, 0, root="photos", size=6, sampling="balanced", memory_gb=memory)
    data.prepare_data()
    data.setup()
    loader = data.build_loader("train")
    counts = torch.bincount(torch.cat([batch["labels"] for batch in loader]), minlength=3)
    assert len(loader) == sum(SIZES.values()) // 16 and counts.max() - counts.min() <= sum(SIZES.values()) % 16 + 1
    evaluated = torch.bincount(torch.cat([batch["labels"] for batch in data.build_loader("val")]), minlength=3)
    assert sorted(evaluated.tolist()) == [4, 10, 30], "evaluation sees each image once"


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        ("softmax", ["recipe.monitor=balanced_acuracy"], ["no validation metric", "did you mean 'balanced_accuracy'"]),
        ("softmax", ["recipe.monitor=accuracy_top5"], ["no validation metric 'accuracy_top5'", "'accuracy'"]),
        ("softmax", ["data.sampling=balanced", "recipe.class_weights=balanced"], ["same imbalance: omit one"]),
        ("softmax", ["recipe.class_weights=[1,2]"], ["has 2 numbers, and the data 10 classes"]),
        ("softmax", ["recipe.class_weights=balance"], ["must be balanced, inverse-sqrt, or a list"]),
        ("knn", ["data.sampling=balanced"], ["reads each training image once: omit it"]),
        ("knn", ["recipe.class_weights=balanced"], ["trains in one pass"]),
        ("char-rnn", ["recipe.class_weights=balanced"], ["recipe.class_weights is for classification"]),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_before_anything_is_written(zoo, model, settings, words) -> None:
    arguments = [word for setting in settings for word in ("--set", setting)]
    assert zoo("train", model, *arguments).is_one_line_error(*words)
    assert not list(Path("runs").glob("*"))
