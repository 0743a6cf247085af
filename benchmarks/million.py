"""Time to the first batch and memory with a million image files, at a first and a second start.

    python benchmarks/million.py --count 1281167 --batches 2000

It makes links to a few hundred JPEGs of 500x375 pixels in 1,000 class folders below a temporary one, and starts one process
after the other, which reads batches of 64 with random crops. Prints seconds and megabytes of memory that no file backs, at
the first batch and at the last.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

CLASSES, FILES, BATCH = 1000, 300, 64


def link_files(root: Path, count: int) -> None:
    from pictures import make_files

    make_files(root / "real", FILES)
    real = sorted((root / "real").rglob("*.jpg"))
    for label in range(CLASSES):
        folder = root / "images" / "train" / f"class{label:04}"
        folder.mkdir(parents=True)
        for index in range(label, count, CLASSES):
            os.symlink(real[index % FILES], folder / f"image_{index:08}.jpg")
    for label in range(CLASSES):
        for split in ("val", "test"):
            folder = root / "images" / split / f"class{label:04}"
            folder.mkdir(parents=True)
            os.symlink(real[label % FILES], folder / "image.jpg")


def anonymous_megabytes() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def read(root: str, batches: int, size: int, started: float) -> None:
    """What each of the processes does."""
    import zoo

    options = {"size": size, "augment": "resized-crop:0.08,hflip", "memory_gb": 0}
    data = zoo.create_data("folder", batch_size=BATCH, root=root, **options)
    data.prepare_data()
    data.setup()
    found = {}
    for number, _ in enumerate(data.train_dataloader(), 1):
        if number == 1:
            found |= {"first batch, s": time.time() - started, "memory then, MB": anonymous_megabytes()}
        if number == batches:
            break
    print(
        json.dumps(
            {**found, "memory at the end, MB": anonymous_megabytes(), "images/s": number * BATCH / (time.time() - started)}
        )
    )


def main(
    count: int = 50_000,
    batches: int = 100,
    size: int = 64,
    folder: str = "",
    root: Annotated[str, typer.Option(hidden=True)] = "",
    started: Annotated[float, typer.Option(hidden=True)] = 0,
) -> None:
    """Measure two starts."""
    if root:
        return read(root, batches, size, started)
    with tempfile.TemporaryDirectory(dir=folder or None) as place:
        link_files(Path(place), count)
        for start in ("first", "second"):
            options = [f"--root={place}/images", f"--batches={batches}", f"--size={size}", f"--started={time.time()}"]
            environment = {**os.environ, "ZOO_HOME": f"{place}/home"}
            done = subprocess.run(
                [sys.executable, __file__, *options], env=environment, check=True, stdout=subprocess.PIPE, text=True
            )
            print(f"{start} start:", ", ".join(f"{name} {value:,.1f}" for name, value in json.loads(done.stdout).items()))


if __name__ == "__main__":
    typer.run(main)
