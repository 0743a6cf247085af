"""What makes a command say something: runs that are unfinished or damaged, and files that do not fit.

Each situation is made in the current folder, in which ``runs`` holds a finished run of softmax on digits under the name ``run``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from zoo.api.trained import load
from zoo.api.training import train
from zoo.core.errors import UserError

QUICK = ("--set", "recipe.epochs=1", "--set", "trainer.limit_train_batches=2", "--set", "trainer.limit_test_batches=1")
Before = Callable[[Path, Any], None]  # of the folder of runs and the command


def images(root: str, counts: dict[str, int], size: tuple[int, int] = (8, 8), shade: int = 0) -> None:
    """So many different images in each of these folders, the same in folders whose names end alike."""
    for folder, count in counts.items():
        Path(root, folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            color = (number * 20, ord(Path(folder).name[0]), shade)
            Image.new("RGB", size, color).save(f"{root}/{folder}/{number}.png")


def unfinished(runs: Path, zoo: Any) -> None:
    """A run that looks as if it had stopped an hour ago, within training."""
    file = runs / "run/metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines() if "test/" not in line]
    file.write_text("".join(json.dumps({**line, "time": line["time"] - 3600}) + "\n" for line in lines))


def begun(runs: Path, zoo: Any) -> None:
    """A run that was lost before its first epoch had ended."""
    shutil.rmtree(runs / "run/checkpoints")
    (runs / "run/metrics.jsonl").unlink()


def no_runs(runs: Path, zoo: Any) -> None:
    shutil.rmtree(runs)


def without(*names: str) -> Before:
    def without(runs: Path, zoo: Any) -> None:
        for name in names:
            (runs / "run" / name).unlink()

    return without


def damaged(*names: str) -> Before:
    def damaged(runs: Path, zoo: Any) -> None:
        for name in names:
            (runs / "run" / name).write_bytes(bytes(1000))

    return damaged


def weights(change: Callable[[dict[str, Any]], Any]) -> Before:
    """A file of changed weights of resnet18 for two classes."""

    def weights(runs: Path, zoo: Any) -> None:
        from torchvision.models import resnet18

        torch.save(change(dict(resnet18(num_classes=2).state_dict())), "w.pth")

    return weights


def renamed(state: dict[str, Any]) -> dict[str, Any]:
    return {f"layer.{place}": value for place, value in enumerate(state.values())}


def headless(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if "fc" not in name}


def diverged(runs: Path, zoo: Any) -> None:
    with pytest.raises(UserError):
        train("mlp", name="broken", settings={"recipe.lr": 1e30, "recipe.epochs": 2}, progress=False)


def exported(runs: Path, zoo: Any) -> None:
    load("run").export("safetensors", "run.safetensors")
    Path("run.onnx").touch()


def folders(runs: Path, zoo: Any) -> None:
    images("uneven", {"ant": 9, "bee": 3})
    images("wide", {"ant": 6, "bee": 6}, size=(40, 32))
    images("unsorted", {"train/ant": 6, "train/bee": 6, "test": 2})
    images("other", {"ant": 6, "bee": 6}, shade=9)


def embedded(runs: Path, zoo: Any) -> None:
    """A Parquet table that holds the images themselves."""
    import pyarrow
    from pyarrow import parquet

    files = sorted(Path("photos").rglob("*.png"))
    rows = [{"image": {"bytes": file.read_bytes(), "path": str(file)}, "label": file.parent.name} for file in files]
    parquet.write_table(pyarrow.Table.from_pylist(rows), "embedded.parquet")


def saved(runs: Path, zoo: Any) -> None:
    """A folder that the library datasets has saved."""
    from datasets import Dataset, Image

    files = sorted(Path("photos").rglob("*.png"))
    columns = {"image": list(map(str, files)), "label": [file.parent.name for file in files]}
    Dataset.from_dict(columns).cast_column("image", Image()).save_to_disk("saved")


def table(runs: Path, zoo: Any) -> None:
    files = sorted(Path("photos").rglob("*.png"))
    Path("photos.csv").write_text("path,label\n" + "".join(f"{file},{file.parent.name}\n" for file in files))


def copied(runs: Path, zoo: Any) -> None:
    """A run, a folder with copies of its training images, and one with others."""
    folders(runs, zoo)
    images("mine", {"train/ant": 6, "train/bee": 6})
    images("mine", {"val/ant": 2, "val/bee": 2}, shade=5)
    images("mine", {"test/ant": 2, "test/bee": 2}, shade=7)
    train("softmax", "mine", name="mine", settings=list(QUICK[1::2]), progress=False)
    shutil.copytree("mine/train", "copies")


PLUGIN = """
from torch import nn
from zoo import register_model
from zoo.tasks.classification import Classifier

@register_model("mine", task="classification", data="digits", recipe={"epochs": 1})
class Mine(Classifier):
    "Mine."
    def __init__(self, spec, recipe):
        super().__init__(spec, recipe)
        self.linear = nn.Linear(64, 10)

    def forward(self, images):
        return self.linear(images.flatten(1))

    def stages(self):
        return {"head": self.linear}
"""


def untrusted(runs: Path, zoo: Any) -> None:
    """A run and an exported file of a model of a plugin, which was never given on this machine."""
    Path("mine.py").write_text(PLUGIN)
    assert zoo("--plugin", "mine.py", "train", "mine", *QUICK, "--name", "mine").code == 0
    load("mine").export("safetensors", "mine.safetensors")
    shutil.rmtree(os.environ["ZOO_HOME"])


def moved(runs: Path, zoo: Any) -> None:
    untrusted(runs, zoo)
    Path("new").mkdir()
    Path("mine.py").rename("new/mine.py")
