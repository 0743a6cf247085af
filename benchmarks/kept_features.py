"""Time per epoch of training a head: on features that were computed once, over looking at every image again.

    python benchmarks/kept_features.py
    python benchmarks/kept_features.py --root photos --size 0 --epochs 3

The two are the same fine-tuning but for that, with the same seed, and must end with the same accuracy. What is compared is the
mean epoch after the first, validation included.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import lightning as L
import typer

from zoo.registry.registry import scan
from zoo.tasks.classification import Classifier
from zoo.training import engine
from zoo.training.finetuning import resolve_finetuning


class Clock(L.Callback):
    """When each epoch began, and when the last one ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self.times.append(time.perf_counter())

    def on_fit_end(self, *_: Any) -> None:
        self.times.append(time.perf_counter())

    @property
    def epoch(self) -> float:
        """Seconds of the mean epoch after the first."""
        return (self.times[-1] - self.times[1]) / (len(self.times) - 2)


def main(
    backbone: str = "efficientnet-lite0",
    root: Annotated[str, typer.Option(help="A folder of images; the default is digits.")] = "",
    size: Annotated[int, typer.Option(help="Pixels a side; 0 keeps those of the folder.")] = 64,
    epochs: int = 3,
) -> None:
    data = {"name": "folder", "root": str(Path(root).resolve()), "size": size} if root else {"name": "digits", "size": size}
    settings = {"data": data, "recipe": {"freeze": "backbone", "epochs": epochs}}
    run = resolve_finetuning(scan(), backbone, "", {}, [settings])
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in ("kept", "seen"):
            clock = Clock()
            seen = patch.object(Classifier, "prepare", lambda self, data: None)
            with seen if name == "seen" else patch.dict(os.environ):
                outcome = engine.train(scan(), run, name, callbacks=[clock], progress=False)
            found[name] = clock.epoch
            print(f"{name}: {clock.epoch:.3f} s an epoch, test accuracy {outcome.test['test/accuracy']:.4f}")
    print(f"ratio: {found['seen'] / found['kept']:.1f}")


if __name__ == "__main__":
    typer.run(main)
