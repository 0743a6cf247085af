"""Exported files say what the original says, say so of themselves, and are there whole or not at all."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.config.resolution import resolve
from zoo.export import agreement, export
from zoo.export.files import open_file
from zoo.export.formats import FORMATS
from zoo.registry.registry import scan
from zoo.spec import spec_to_primitives
from zoo.training import building, calibrating
from zoo.training.checkpoints import FORMAT, KEY, read_checkpoint
from zoo.training.exported import read_exported
from zoo.training.run_folder import RunFolder

REGISTRY = scan()
CLASSIFIERS = {  # the first of each class: the others are deeper
    entry.class_name: name for name, entry in reversed(REGISTRY.models.items()) if entry.task == "classification"
}
REMEMBERING = "KNearestNeighbors"
GRAPHS = ("onnx", "torch-export")
FORMAT_NAMES = tuple(name for name in FORMATS if name != "hub")


def checkpoint_of(name: str, path: Path) -> Path:
    """A checkpoint of a model's tiny variant as it is before training, with batch norms that have seen something."""
    entry = REGISTRY.model(name)
    run = resolve(REGISTRY, name, {}, [{"model": entry.tiny}])
    data = building.open_data(REGISTRY, run)
    task = building.build_task(REGISTRY, run, data.spec)
    if not task.one_pass:
        with torch.no_grad():
            task.train().training_step(task.example_batch(16), 0)
    about = {"format": FORMAT, "run": run.model_dump(mode="json"), "spec": spec_to_primitives(data.spec)}
    torch.save({KEY: about, "state_dict": task.state_dict()}, path)
    return path


def run_snippet(card: Path, alone: bool) -> dict[str, float]:
    """What the program on a card prints, run where the file lies; ``alone`` forbids it to import the zoo."""
    code = card.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    forbidden = "import sys\nfor name in ('zoo', 'datamodules', 'callbacks', 'cli'):\n    sys.modules[name] = None\n"
    Path("snippet.py").write_text((forbidden if alone else "") + code, encoding="utf-8")
    printed = subprocess.run(
        [sys.executable, "-X", "utf8", "snippet.py"], check=True, capture_output=True, text=True, encoding="utf-8"
    ).stdout
    return {name: float(value) for name, _, value in (line.rpartition(": ") for line in printed.splitlines())}


@pytest.mark.parametrize("format", [pytest.param(name, marks=pytest.mark.slow) if name in GRAPHS else name for name in FORMATS])
def test_probabilities_of_a_calibrated_run_are_exported_as_predict_gives_them(zoo, trained, format: str) -> None:
    folder = RunFolder(Path(shutil.copytree(trained.folder.path, "calibrated")))
    trained.picture("yellow", 7).save("photo.png")
    confident = json.loads(zoo("predict", folder.path, "photo.png", "--json").out)[0]["top"]
    calibrating._write(folder, read_checkpoint(folder.best), calibrating.Calibration("best", 50.0, 12, {}, {}))
    said = json.loads(zoo("predict", folder.path, "photo.png", "--json").out)[0]["top"]
    assert confident[0]["probability"] > said[0]["probability"] + 0.05
    assert zoo("export", folder.path, "--to", format, "-o", (file := f"file{FORMATS[format].suffix}")).code == 0
    pixels = torch.from_numpy(np.array(Image.open("photo.png"))).permute(2, 0, 1)[None]
    (row,) = open_file(FORMATS[format], Path(file), REGISTRY)(pixels)
    exported = dict(zip(trained.classifier().spec.classes, row.tolist(), strict=True))
    assert exported == pytest.approx({entry["class"]: entry["probability"] for entry in said}, abs=1e-5)


@pytest.mark.parametrize(
    "format", [name if name == "onnx" else pytest.param(name, marks=pytest.mark.slow) for name in FORMAT_NAMES]
)
def test_the_program_on_the_card_says_what_predict_says(zoo, trained, format: str) -> None:
    file = Path(f"colorist{FORMATS[format].suffix}")
    answer = zoo("export", trained.folder.path, "--to", format, "--license", "CC BY 4.0")
    assert answer.code == 0, answer.err
    assert "verified on 15 test images" in answer.out
    assert stat.S_IMODE(file.stat().st_mode) & 0o044  # for others to read, as any new file
    assert sorted(path.name for path in Path().iterdir()) == [file.name, f"{file.name}.md"]
    # taller than wide, so that the way it is cut and scaled counts; below the size from which JPEG is decoded smaller
    trained.picture("yellow", 7, (24, 31)).save("photo.jpg")
    (said,) = json.loads(zoo("predict", trained.folder.path, "photo.jpg", "--json").out)
    printed = run_snippet(Path(f"{file.name}.md"), alone=format != "safetensors")
    assert list(printed) == sorted(printed) and len(printed) == 3  # in the order of the classes, which is that of the folders
    for entry in said["top"]:
        assert printed[entry["class"]] == pytest.approx(entry["probability"], abs=2e-4)  # four digits are printed


def test_the_card_tells_data_figures_license_input_and_classes(zoo, trained) -> None:
    zoo("export", trained.folder.path, "--to", "safetensors", "--license", "CC BY 4.0")
    card = Path("colorist.safetensors.md").read_text(encoding="utf-8")
    tested = next(json.loads(line) for line in trained.folder.metrics_file.read_text().splitlines() if "test/accuracy" in line)
    for words in (
        "License: CC BY 4.0",
        "folder (colors): 36 training, 12 validation, 15 test images", "[N, 3, 16, 16]", "RGB from 0 to 255",
        f"| accuracy | {tested['test/accuracy']:.4f} |", '1. so-called "red"', "folder (colors)", "epochs: 4",
    ):  # fmt: skip
        assert words in card
    assert str(trained.pictures) not in card  # no path of the machine it was trained on
    zoo("export", trained.folder.path, "--to", "safetensors", "--checkpoint", "last")
    card = Path("colorist.safetensors.md").read_text(encoding="utf-8")
    assert "not tested" in card and "License: not stated" in card


def test_the_zoo_loads_its_own_file_again(zoo, trained) -> None:
    zoo("export", trained.folder.path, "--to", "safetensors", "-o", "sub/one.safetensors")
    original, again = read_checkpoint(trained.folder.best), read_exported(Path("sub/one.safetensors"))
    assert all(again[KEY][key] == original[KEY][key] for key in ("format", "spec"))
    assert all(again[KEY]["run"][key] == original[KEY]["run"][key] for key in ("model", "recipe", "trainer"))
    assert list(again["state_dict"]) and again["state_dict"].keys() == original["state_dict"].keys()
    assert all(torch.equal(value, original["state_dict"][name]) for name, value in again["state_dict"].items())
    # the folder of the images is of one machine and not in the file
    assert zoo("test", "sub/one.safetensors").is_one_line_error("data.root must be given: --set data.root=")
    root = ("--set", f"data.root={trained.pictures}", "--json")
    by_file, by_run = (json.loads(zoo("test", name, *root).out) for name in ("sub/one.safetensors", trained.folder.path))
    assert by_file == by_run and by_file["test/accuracy"] > 0.9
    trained.picture("yellow", 3).save("photo.png")
    said = [zoo("predict", name, "photo.png", "--json").out for name in ("sub/one.safetensors", trained.folder.path)]
    assert said[0] == said[1] and "yellow" in said[0]
    answer = zoo("export", "sub/one.safetensors", "--to", "torch-export", "--json")  # and gives it on in another format
    assert json.loads(answer.out)["file"] == "one.pt2"
    assert zoo("predict", "sub/one.safetensors", "photo.png", "--checkpoint", "last").is_one_line_error("--checkpoint last")


@pytest.mark.slow
def test_pictures_are_drawn_of_an_exported_file_as_of_its_run(zoo, trained) -> None:
    zoo("export", trained.folder.path, "--to", "safetensors", "-o", "one.safetensors")
    trained.picture("yellow", 3).save("photo.png")
    for kind, *images in (("confusion",), ("calibration",), ("saliency", "photo.png"), ("filters",)):
        root = [] if images or kind == "filters" else ["--set", f"data.root={trained.pictures}"]
        answers = [zoo("picture", kind, name, *images, *root) for name in ("one.safetensors", trained.folder.path)]
        assert [answer.code for answer in answers] == [0, 0], answers
        assert answers[0].out.startswith(f"one-{kind}.png: ") and Path(f"one-{kind}.png").is_file()
        told, told_of_run = (answer.out.splitlines()[0].partition(": ")[2] for answer in answers)
        assert told == told_of_run
    assert zoo("picture", "confusion", "one.safetensors", "--checkpoint", "last").is_one_line_error("--checkpoint last")
    assert zoo("picture", "curves", "one.safetensors").is_one_line_error(
        "zoo picture curves", "records of a run", "exported file"
    )


@pytest.mark.parametrize("content", [b"", b"not one", b"\xff" * 64, (2).to_bytes(8, "little") + b"{}"])
def test_another_or_a_damaged_file_is_refused_in_one_line(zoo, content: bytes) -> None:
    Path("x.safetensors").write_bytes(content)
    assert zoo("export", "x.safetensors", "--to", "onnx").is_one_line_error("x.safetensors")


SMALL = {"mlp", "resnet20", "knn"}


@pytest.mark.parametrize(
    "name", [name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in sorted(CLASSIFIERS.values())]
)
def test_every_classifier_exports_or_says_why_not(tmp_path: Path, name: str) -> None:
    """ONNX Runtime and torch alone say what the network says, for one image and for several."""
    import onnxruntime

    checkpoint = checkpoint_of(name, tmp_path / "best.ckpt")
    task, _ = building.load_task(REGISTRY, read_checkpoint(checkpoint), checkpoint)

    def exported(format: str) -> Path:
        return export.export(
            REGISTRY, checkpoint, FORMATS[format], tmp_path / f"net{FORMATS[format].suffix}", "net", {}, "none"
        ).file

    assert exported("safetensors").exists()
    if name == CLASSIFIERS[REMEMBERING]:
        for format in ("onnx", "torch-export"):
            with pytest.raises(export.UserError, match="nearest neighbors have no graph"):
                exported(format)
            assert not (tmp_path / f"net{FORMATS[format].suffix}").exists()
        return
    session = onnxruntime.InferenceSession(exported("onnx"))
    kept = {"classes": ""}
    program = torch.export.load(exported("torch-export"), extra_files=kept).module()
    told = session.get_modelmeta().custom_metadata_map["classes"]
    assert json.loads(told) == json.loads(kept["classes"]) == list(task.spec.classes)
    assert session.get_inputs()[0].type == "tensor(uint8)"
    for count in (1, 5):
        images = task.example_batch(count, seed=3)["images"]
        with torch.inference_mode():
            # the network by hand, without its own pre-processing
            pixels = images / 255
            mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (task.spec.mean, task.spec.std))
            expected = task((pixels - mean) / std).softmax(1)
            by_torch = program(images)
        (by_onnx,) = session.run(["probabilities"], {"images": images.numpy()})
        assert torch.allclose(by_torch, expected, rtol=0, atol=1e-5)
        assert np.allclose(by_onnx, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("format", FORMAT_NAMES)
def test_a_file_that_says_something_else_is_not_left_behind(zoo, trained, monkeypatch, format: str) -> None:
    path = Path(f"colorist{FORMATS[format].suffix}")
    path.write_text("older")
    honest = export.open_file

    def wrong_when_together(*arguments):
        opened = honest(*arguments)
        return lambda images: opened(images) + (0.001 if len(images) > 2 else 0)

    monkeypatch.setattr(export, "open_file", wrong_when_together)
    answer = zoo("export", trained.folder.path, "--to", format)
    assert answer.is_one_line_error("by up to 0.001", "nothing was written")
    assert [entry.name for entry in Path().iterdir()] == [path.name] and path.read_text() == "older"


def test_a_file_whose_likeliest_class_differs_is_refused(trained, monkeypatch) -> None:
    task = trained.classifier()
    monkeypatch.setattr(agreement, "TOLERANCE", 2.0)
    data = agreement.own_test_data(trained.registry, trained.run, task.spec)

    def opened(images: torch.Tensor) -> torch.Tensor:
        return task.predict_step({"images": images}).detach().roll(1, dims=1)

    with pytest.raises(agreement.UserError, match="64 predicted classes"):
        agreement.check_agreement(task, opened, data)


def test_without_its_data_random_images_are_taken_and_nothing_is_downloaded(zoo, tmp_path: Path, monkeypatch) -> None:
    """CIFAR-10 is not on this machine; a socket would be refused with another error."""
    run = resolve(REGISTRY, "softmax", {}, [{"data": {"name": "cifar10"}}])
    spec = building.open_data(REGISTRY, run).spec
    task = building.build_task(REGISTRY, run, spec)
    about = {"format": FORMAT, "run": run.model_dump(mode="json"), "spec": spec_to_primitives(spec)}
    checkpoint = tmp_path / "best.ckpt"
    torch.save({KEY: about, "state_dict": task.state_dict()}, checkpoint)
    done = export.export(REGISTRY, checkpoint, FORMATS["torch-export"], tmp_path / "net.pt2", "net", {}, "none")
    assert done.agreement.images == "64 random images" and "is not on this machine" in done.without
    assert "random images" in done.card.read_text()


def test_what_cannot_be_exported_is_told_in_one_line(zoo, trained, monkeypatch) -> None:
    run = trained.folder.path
    assert zoo("export", run, "--to", "onx").is_one_line_error("did you mean 'onnx'")
    assert zoo("export", run, "--to", "onnx", "-o", "net.pt2").is_one_line_error("must end in .onnx")
    Path("net.onnx.md").mkdir()
    assert zoo("export", run, "--to", "onnx", "-o", "net.onnx").is_one_line_error("net.onnx.md is a folder")
    assert zoo("export", "nowhere", "--to", "onnx").is_one_line_error("no run 'nowhere'")
    for command in (("export", "char-rnn", "--to", "onnx"), ("serve", "char-rnn")):
        folder = Path("runs/char-rnn")
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "run.yaml").write_text(resolve(REGISTRY, "char-rnn", {}, []).to_yaml())
        (folder / "checkpoints/best.ckpt").touch()
        assert zoo(*command).is_one_line_error("language-modeling", "is for classification")
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # as if it were not installed
    assert zoo("export", run, "--to", "onnx").is_one_line_error("onnxscript", "bestiary[export]")
    assert zoo("export", run, "--to", "torch-export").code == 0
