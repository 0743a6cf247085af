"""What trackers show of the predictions of each task: read back from W&B's tables and TensorBoard's images and texts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.wandb_records import tables
from zoo.config.resolution import resolve
from zoo.registry.registry import scan
from zoo.training import engine

REGISTRY = scan()
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_wandb")]
ONE_OF_EACH = ("resnet20", "char-gru", "captioner-attention", "vqa-lstm", "lstm", "dialogue-generative", "navigator")
QUESTIONS = {"image", "title", "question", "prediction", "expected", "correct", "probability"}


def trained(name: str) -> Path:
    """A short run of the tiny variant of a model on tiny data, which W&B and TensorBoard track."""
    entry = REGISTRY.model(name)
    tiny = {
        "model": entry.tiny,
        "data": REGISTRY.data_set(entry.data).tiny,
        "recipe": {"epochs": 1, "batch_size": 16, "compile": False},
        "trainer": {"accelerator": "cpu", "limit_train_batches": 2, "limit_val_batches": 2, "test": False},
    }
    trackers = {"trainer": {"logger": ["tensorboard"]}, "wandb": {"mode": "offline"}}
    return engine.train(REGISTRY, resolve(REGISTRY, name, {}, [tiny, trackers]), name, progress=False).folder.path


def in_tensorboard(folder: Path) -> tuple[int, list[str]]:
    """The number of images, and the texts."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), {"images": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    names = [tag for tag in tags["tensors"] if tag.startswith("val/samples/")]
    texts = [events.Tensors(name)[0].tensor_proto.string_val[0].decode() for name in names]
    return sum(tag.startswith("val/samples/") for tag in tags["images"]), texts


def check(name: str, rows: list[dict[str, Any]]) -> int:
    """Check the rows of the table, by the task; the number of images."""
    if name == "char-gru":
        assert all(set(row) == {"title", "text"} and len(row["text"]) > 100 for row in rows)
        assert [row["title"].partition(" ")[0] for row in rows] == ["temperature"] * len(rows)
        return 0
    if name == "lstm":
        assert all({"input", "expected", "predicted"} <= set(row["text"].split()) for row in rows)
        return 0
    images = Counter(row["image"]["path"] for row in rows)
    if name == "resnet20":
        assert all({row["label"], row["prediction"]} <= set("0123456789") and 0 < row["probability"] <= 1 for row in rows)
        return len(rows)
    assert all(set(row) == QUESTIONS and row["question"] and row["prediction"] for row in rows)
    if name == "captioner-attention":
        assert all(row["question"] == "caption" and row["expected"].count(" / ") == 4 for row in rows)
    elif name == "navigator":
        assert all("shortest path" in row["prediction"] and row["image"]["width"] >= 200 for row in rows)
    else:
        assert min(images.values()) > 1, "several questions about an image"
        assert all(row["question"].endswith("?") and row["expected"] and 0 <= row["probability"] <= 1 for row in rows)
        assert all(row["correct"] == (row["prediction"] == row["expected"]) for row in rows if row["correct"] is not None)
    if name.startswith("dialogue"):
        assert len({row["title"] for row in rows}) == len(images), "each under its caption"
    return len(images)


def test_there_is_one_of_each_task() -> None:
    assert {REGISTRY.model(name).task for name in ONE_OF_EACH} == {entry.task for entry in REGISTRY.models.values()}


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_samples_of_each_task_are_shown(name: str) -> None:
    folder = trained(name)
    rows = tables(folder)["val/samples"]
    images, texts = in_tensorboard(folder)
    assert rows and check(name, rows) == images
    told = " ".join(texts).replace("\\", "")
    for row in rows:
        for key in ("prediction", "title"):
            assert not row.get(key) or name == "captioner-attention" or row[key] in told, (key, row[key])
