"""The program on the card, the ONNX file and the server prepare deep and gray images as ``zoo predict`` does."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from zoo.config.resolution import resolve
from zoo.datamodules.files.images import read_image
from zoo.export.formats import FORMATS
from zoo.registry.registry import scan
from zoo.training import engine
from zoo.training.building import load_task
from zoo.training.exported import read_trained
from zoo.training.run_folder import RunFolder

KINDS = {"I;16": (np.uint16, 1000, 4000), "I": (np.int32, 1000, 4000), "F": (np.float32, -0.25, 0.125), "L": (np.uint8, 30, 220)}


def picture(kind: str, is_bright: bool, seed: int, size: tuple[int, int] = (16, 16)) -> Image.Image:
    """The same noise in each class, around one of two levels: only a range for all images tells them apart."""
    dtype, low, high = KINDS[kind]
    level = (0.7 if is_bright else 0.1) + np.random.default_rng(seed).uniform(-0.1, 0.3, (size[1], size[0]))
    level[0, 0], level[-1, -1] = 0, 1  # the lowest and the highest value in each image
    return Image.fromarray((low + level * (high - low)).astype(dtype))


@pytest.fixture(scope="module", params=[pytest.param(kind, marks=() if kind == "I;16" else pytest.mark.slow) for kind in KINDS])
def run(request, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, RunFolder]:
    """A run of images of one kind."""
    kind, place = request.param, tmp_path_factory.mktemp("deep")
    for split, count, first in (("train", 16, 0), ("test", 4, 50)):
        for name in ("bright", "dim"):
            (place / "data" / split / name).mkdir(parents=True)
            for seed in range(first, first + count):
                image = picture(kind, name == "bright", seed + (100 if name == "dim" else 0))
                image.save(place / "data" / split / name / f"{seed}.{'tif' if kind in 'IF' else 'png'}")
    settings = {
        "data": {"name": "folder", "root": str(place / "data"), "augment": "none"},
        "recipe": {"epochs": 8, "batch_size": 8},
        "trainer": {"accelerator": "cpu"},
    }
    registry, folder = scan(), RunFolder(place / "deep")
    folder.path.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_HOME", str(place / "home"))
        result = engine.train(registry, resolve(registry, "mlp", {}, [settings]), folder=folder, progress=False)
    assert result.test["test/accuracy"] == 1  # which a range for each image does not allow
    return kind, folder


def predicted(zoo, network: Path, file: Path) -> dict[str, float]:
    (entry,) = json.loads(zoo("predict", network, file, "--json").out)
    return {each["class"]: each["probability"] for each in entry["top"]}


def probabilities(card: Path, image: Path) -> dict[str, float]:
    """What the program on a card computes for an image."""
    program = card.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    assert '"photo.jpg"' in program
    names: dict = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(program.replace('"photo.jpg"', repr(str(image))), names)
    classes = names["classes"] if "classes" in names else names["network"].spec.classes
    return dict(zip(classes, map(float, names["probabilities"]), strict=True))


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "hub"])
def test_the_program_on_the_card_prepares_as_predict_does(zoo, workplace: Path, run, format: str) -> None:
    kind, folder = run
    answer = zoo("export", folder.path, "--to", format)
    assert answer.code == 0, answer.err
    file = Path(f"deep{FORMATS[format].suffix}")
    images = {each: picture(each, is_bright=False, seed=7, size=(31, 24)) for each in KINDS}
    images["RGB"] = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))
    images["RGBA"] = Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 31, 4), dtype=np.uint8))
    for each, image in images.items():
        image.save(f"{each}.tif")
        expected = predicted(zoo, folder.path, Path(f"{each}.tif"))
        assert probabilities(Path(f"{file.name}.md"), Path(f"{each}.tif")) == pytest.approx(expected, abs=1e-5), each
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (150, 120, 3), dtype=np.uint8)).save("large.jpg")
    expected = predicted(zoo, folder.path, Path("large.jpg"))
    assert probabilities(Path(f"{file.name}.md"), Path("large.jpg")) == pytest.approx(expected, abs=1e-5)
    # the images of the run's own kind are recognized
    assert max(predicted(zoo, folder.path, Path(f"{kind}.tif")).items(), key=lambda item: item[1])[0] == "dim"


def test_onnx_and_the_server_prepare_as_predict_does(zoo, workplace: Path, run, serve) -> None:
    kind, folder = run
    assert zoo("export", folder.path, "--to", "onnx").code == 0
    task, of_run = load_task(scan(), read_trained(folder.best), folder.best)
    session = onnxruntime.InferenceSession("deep.onnx")
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["value_range"]) == list(task.spec.value_range)
    assert len(task.spec.value_range) == (0 if kind == "L" else 2) and task.spec.channels == 1
    with serve(task=task, run=of_run) as server:
        for is_bright in (True, False):
            picture(kind, is_bright, 8, (20, 30)).save("one.tif")
            expected = predicted(zoo, folder.path, Path("one.tif"))
            with urlopen(Request(f"{server.address}predict", Path("one.tif").read_bytes()), timeout=60) as answer:
                (told,) = json.load(answer)
            assert {each["class"]: each["probability"] for each in told["top"]} == pytest.approx(expected, abs=1e-5)
            pixels = read_image("one.tif", task.spec)[None].numpy()
            ((first, second),) = session.run(None, {"images": pixels})[0].tolist()
            assert {"bright": first, "dim": second} == pytest.approx(expected, abs=1e-5)
            assert max(expected, key=expected.get) == ("bright" if is_bright else "dim")


def test_an_array_is_taken_as_the_file_is(workplace: Path, run) -> None:
    import zoo

    kind, folder = run
    image = picture(kind, is_bright=True, seed=9)
    image.save("one.tif")
    values = np.asarray(image)
    loaded = zoo.load(folder.path)
    tensor = torch.tensor(values if kind == "L" else values.astype(np.float64))
    expected, *others = (each.values for each in loaded.predict(["one.tif", image, values, tensor]))
    assert others == [pytest.approx(expected, abs=1e-6)] * 3 and expected["bright"] > 0.5
