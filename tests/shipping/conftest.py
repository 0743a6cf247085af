"""A small classifier of colored pictures, trained once for all tests of this folder, and a server for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image

from zoo.config.resolution import resolve
from zoo.config.run import Run
from zoo.registry.registry import Registry, scan
from zoo.serve.application import Application, predictor
from zoo.serve.batches import Batches
from zoo.serve.connections import TimedProtocol
from zoo.serve.server import listen
from zoo.serve.uploads import Limits
from zoo.tasks.classification import Classifier
from zoo.training import building, engine
from zoo.training.exported import read_trained
from zoo.training.run_folder import RunFolder

COLORS = {"blau & grün": (20, 90, 160), 'so-called "red"': (200, 30, 40), "yellow": (220, 200, 40)}


@dataclass(frozen=True)
class Trained:
    """A finished run, and the folder of the pictures it was trained on."""

    registry: Registry
    run: Run
    folder: RunFolder
    pictures: Path

    @staticmethod
    def picture(name: str, seed: int, size: tuple[int, int] = (16, 16)) -> Image.Image:
        """A picture of a class: its color with noise."""
        noise = np.random.default_rng(seed).normal(0, 25, (size[1], size[0], 3))
        return Image.fromarray((np.array(COLORS[name]) + noise).clip(0, 255).astype(np.uint8))

    def classifier(self) -> Classifier:
        return building.load_task(self.registry, read_trained(self.folder.best), self.folder.best)[0]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """A residual network that tells three colors apart."""
    place = tmp_path_factory.mktemp("trained")
    for split, count, first in (("train", 12, 0), ("val", 4, 20), ("test", 5, 40)):
        for number, name in enumerate(COLORS):
            (place / "colors" / split / name).mkdir(parents=True)
            for seed in range(first, first + count):
                Trained.picture(name, 100 * number + seed).save(place / "colors" / split / name / f"{seed}.png")
    settings = {
        "model": {"width": 4, "depth": 8},
        "data": {"name": "folder", "root": str(place / "colors")},
        "recipe": {"epochs": 4, "batch_size": 12},
    }
    registry, folder = scan(), RunFolder(place / "colorist")
    folder.path.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_HOME", str(place / "cache"))
        run = resolve(registry, "resnet20", {}, [settings])
        engine.train(registry, run, folder=folder, progress=False)
        yield Trained(registry, run, folder, place / "colors")


@dataclass
class Server:
    """A server in a thread of this process."""

    address: str
    batches: Any


@pytest.fixture(scope="session")
def serve(trained: Trained):
    """A server for the classifier on a free port: ``with serve(limits) as server``."""

    @contextmanager
    def start(limits: Limits = Limits(), **options: Any) -> Iterator[Server]:  # noqa: B008, it is frozen
        task, run = options.pop("task", None) or trained.classifier(), options.pop("run", trained.run)
        hosts = options.pop("hosts", ())
        batches = Batches(options.pop("network", predictor(task)), **options)
        application = Application(task, run, "colorist", {"test/accuracy": 0.75}, limits, batches, hosts)
        listener = listen("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(application, http=TimedProtocol, ws="none", log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield Server(f"http://127.0.0.1:{listener.getsockname()[1]}/", batches)
        finally:
            server.should_exit = True
            thread.join()

    return start


@pytest.fixture(scope="session")
def address(serve) -> Iterator[str]:
    """The address of a server with the usual limits."""
    with serve() as server:
        yield server.address
