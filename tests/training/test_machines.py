"""Two machines train one run: each decodes what its processes read, once, and computes what all need of the data once."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.core.json_lines import read_json_lines
from zoo.training.run_folder import RunFolder

# the real command, which writes what it does into the cache of its machine
PROGRAM = """
import os
from pathlib import Path

from zoo.datamodules.bases import images
from zoo.datamodules.files import image_files

def noting(function, name):
    def noted(first, *arguments):
        with open(Path(os.environ["ZOO_HOME"]) / name, "a") as file:
            file.write(f"{first}\\n" if isinstance(first, str) else "once\\n")
        return function(first, *arguments)
    return noted

image_files.decode_whole = noting(image_files.decode_whole, "decoded")
images.channel_statistics = noting(images.channel_statistics, "computed")
images.SAMPLED = 8

from zoo.cli import app
app()
"""
COMMAND = (
    "train softmax --data folder --set data.root=photos --set data.size=16 --set data.memory_gb=0 --set recipe.batch_size=10"
    " --set data.augment=resized-crop:0.5 --epochs 1 --accelerator cpu --nodes 2 --devices 2 --name wide"
)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def photos() -> list[str]:
    """60 training images and 4 of the other splits, of each of two classes."""
    generator = np.random.default_rng(0)
    for split, count in {"train": 60, "val": 2, "test": 2}.items():
        for name in ("cat", "dog"):
            Path("photos", split, name).mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 256, (20, 24, 3), np.uint8)
                Image.fromarray(pixels).save(Path("photos", split, name, f"{index}.png"))
    return sorted(map(str, Path("photos", "train").rglob("*.png")))


@pytest.mark.slow
def test_each_machine_decodes_its_share_once(photos: list[str], tmp_path: Path) -> None:
    Path("zoo_command.py").write_text(PROGRAM)
    homes = [tmp_path / f"machine{rank}" for rank in range(2)]
    launch = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    machines = []
    for rank, home in enumerate(homes):
        home.mkdir()
        machines.append(
            subprocess.Popen(
                [sys.executable, "zoo_command.py", *COMMAND.split()],
                stderr=subprocess.PIPE,
                text=True,
                env={**launch, "NODE_RANK": str(rank), "ZOO_HOME": str(home)},
            )  # fmt: skip
        )
    told = [machine.communicate()[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], told
    decoded = [(home / "decoded").read_text().split() for home in homes]
    for each in decoded:
        assert len(each) == len(set(each)) and 60 <= len(each) <= 60 + 8 and set(each) <= set(photos)
    assert set().union(*decoded) == set(photos), "120 images are three steps of four processes"
    assert [(home / "computed").read_text().split() for home in homes] == [["once"], ["once"]]
    records = list(read_json_lines(RunFolder(Path("runs/wide")).metrics_file))
    assert sum("val/accuracy" in record for record in records) == 1
