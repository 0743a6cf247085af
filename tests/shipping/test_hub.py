"""A folder for a model hub: what timm, the hub's own library and the zoo read from it."""

from __future__ import annotations

import json
import platform
import socket
import sys
import zipfile
from pathlib import Path

import pytest
import safetensors
import timm
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image

import zoo as package
from zoo.config.resolution import resolve
from zoo.datamodules.files.images import read_image
from zoo.export import export
from zoo.export.formats import FORMATS
from zoo.registry.registry import scan
from zoo.spec import Crop, ImageSpec, spec_to_primitives
from zoo.training import building
from zoo.training.checkpoints import FORMAT, KEY

REGISTRY = scan()


def checkpoint_of(name: str, spec: ImageSpec, *settings: dict, **options: object) -> Path:
    """A checkpoint of a network as it is before training."""
    run = resolve(REGISTRY, name, {}, [{"model": options}, *settings])
    task = building.build_task(REGISTRY, run, spec)
    for parameter in task.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    about = {"format": FORMAT, "run": run.model_dump(mode="json"), "spec": spec_to_primitives(spec)}
    torch.save({KEY: about, "state_dict": task.state_dict()}, "best.ckpt")
    return Path("best.ckpt")


def exported(checkpoint: Path, format: str, path: str, **metrics: float) -> export.Exported:
    return export.export(REGISTRY, checkpoint, FORMATS[format], Path(path), "net", metrics, "MIT")


def test_the_command_lays_out_a_folder_that_stands_for_the_run(zoo, trained) -> None:
    answer = zoo("export", trained.folder.path, "--to", "hub", "-o", "hub", "--license", "CC BY 4.0")
    assert answer.code == 0, answer.err
    assert "hf upload OWNER/hub hub" in answer.out
    assert sorted(path.name for path in Path("hub").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert [path.name for path in Path().iterdir()] == ["hub"]
    trained.picture("yellow", 3).save("photo.png")
    by_folder, by_run = (zoo("predict", name, "photo.png", "--json") for name in ("hub", trained.folder.path))
    assert json.loads(by_folder.out) == json.loads(by_run.out)
    root = ("--set", f"data.root={trained.pictures}")
    assert json.loads(zoo("test", "hub", *root, "--json").out)["test/accuracy"] > 0.9
    plan = zoo("finetune", "hub", "--data", "folder", *root, "--plan", "--json")
    assert plan.code == 0, plan.err
    assert zoo("export", "hub", "--to", "hub", "-o", "hub").is_one_line_error("hub: exists")
    assert json.loads(zoo("export", "hub", "--to", "safetensors", "--json").out)["file"] == "hub.safetensors"


def test_the_card_has_front_matter_that_the_hub_reads(zoo, trained) -> None:
    zoo("export", trained.folder.path, "--to", "hub", "-o", "hub", "--license", "CC BY 4.0")
    card = ModelCard.load(Path("hub/README.md"))
    assert (card.data.license, card.data.library_name, card.data.pipeline_tag) == (
        "cc-by-4.0",
        "bestiary",
        "image-classification",
    )
    assert {"image-classification", "residual"} <= set(card.data.tags)
    tested = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert tested["accuracy"] == trained.folder.test_metrics()["test/accuracy"]
    assert card.data.get("datasets") is None  # a folder of one's own is no data set of the hub
    zoo("export", trained.folder.path, "--to", "hub", "-o", "other", "--license", "House rules 2")
    data = ModelCard.load(Path("other/README.md")).data
    assert (data.license, data.license_name) == ("other", "house-rules-2")
    config = json.loads(Path("hub/config.json").read_text(encoding="utf-8"))
    assert config["label_names"] == list(trained.classifier().spec.classes)
    assert config["bestiary"]["model"] == trained.run.model
    assert config["pretrained_cfg"]["mean"] == pytest.approx(list(trained.classifier().spec.mean))


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("network", ["test_vit", "test_efficientnet"])
def test_timm_loads_the_folder_of_its_own_networks(workplace: Path, network: str, channels: int) -> None:
    statistics, crop = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.25)), Crop("center", 0.9, "bicubic")
    spec = ImageSpec(channels, 96, 96, ("cat", "dog", "owl"), *(values[:channels] for values in statistics), crop)
    settings = {"recipe": {"weights": f"timm:{network}.r160_in1k"}}
    checkpoint = checkpoint_of("timm", spec, settings, network=network)
    exported(checkpoint, "hub", "hub", **{"test/accuracy": 0.75})
    theirs = timm.create_model("local-dir:hub", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(theirs)
    assert [*config["mean"], *config["std"]] == [value for values in statistics for value in values[:channels] * (3 // channels)]
    assert list(config["input_size"]) == [3, 96, 96] and theirs.pretrained_cfg["label_names"] == ["cat", "dog", "owl"]
    image = Image.effect_noise((140, 120), 80).convert("RGB")  # three equal channels
    image.save("photo.png")
    with torch.inference_mode():
        expected = theirs(timm.data.create_transform(**config)(image)[None]).softmax(1)
        task, _ = building.load_task(REGISTRY, torch.load(checkpoint, weights_only=True), checkpoint)
        pixels = read_image("photo.png", spec)[None]
        assert torch.allclose(task.predict_step({"images": pixels}), expected, atol=1e-5)
    fresh = timm.create_model("local-dir:hub", pretrained=True, num_classes=5)  # a new head on the same backbone
    body = {name for name in theirs.state_dict() if not name.startswith(theirs.pretrained_cfg["classifier"])}
    assert all(torch.equal(fresh.state_dict()[name], theirs.state_dict()[name]) for name in body)
    card = ModelCard.load(Path("hub/README.md")).data
    assert (card.library_name, card.base_model, card.license) == ("timm", f"timm/{network}.r160_in1k", "mit")
    assert card.datasets == ["digits"]


def test_the_folder_is_there_whole_or_not_at_all(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = checkpoint_of("softmax", ImageSpec(1, 8, 8, ("odd", "even")))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(export, "front_matter", full)
        with pytest.raises(export.UserError, match="hub cannot be written: no space left on device"):
            exported(checkpoint, "hub", "hub")
    assert [path.name for path in Path().iterdir()] == ["best.ckpt"]
    Path("hub").mkdir()  # an empty folder is as good as none
    assert exported(checkpoint, "hub", "hub").card == Path("hub/README.md")


# attention and convolutions, which are traced and decomposed in different ways
SMALL = {"vit": {"embed_dim": 16, "depth": 1, "num_heads": 2}, "timm": {"network": "test_efficientnet"}}
QUICK = {("safetensors", "timm"), ("hub", "timm"), ("torch-export", "vit")}


@pytest.mark.parametrize(
    ("format", "name"),
    [
        pytest.param(format, name, marks=[] if (format, name) in QUICK else pytest.mark.slow)
        for format in FORMATS
        for name in SMALL
    ],
)
def test_nothing_of_this_machine_is_handed_on(workplace: Path, monkeypatch: pytest.MonkeyPatch, format: str, name: str) -> None:
    home = workplace / "home-of-ada"
    for variable, value in {"HOME": str(home), "USER": "adalovelace", "LOGNAME": "adalovelace"}.items():
        monkeypatch.setenv(variable, value)
    for module, function in ((socket, "gethostname"), (platform, "node")):
        monkeypatch.setattr(module, function, lambda: "ada-laptop")
    (home / "weights").mkdir(parents=True)
    (home / "weights" / "start.pth").touch()
    settings = {
        "data": {"name": "folder", "root": str(home / "photos")},
        "recipe": {"weights": str(home / "weights" / "start.pth")},
        "wandb": {"entity": "adas-company", "project": "adas-project"},
    }
    checkpoint = checkpoint_of(name, ImageSpec(3, 32, 32, ("cat", "dog")), settings, **SMALL[name])
    done = exported(checkpoint, format, f"{name}{FORMATS[format].suffix}")
    named = "home-of-ada", "adalovelace", "ada-laptop", "adas-", "site-packages"
    local = [str(each).encode() for each in (*named, workplace, Path(package.__file__).parent, sys.prefix)]
    for file in (done.card, *(done.file.iterdir() if done.file.is_dir() else [done.file])):
        content = file.read_bytes()
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                content += b"".join(map(archive.read, archive.namelist()))
        assert not [each for each in local if each in content], file
    assert "start.pth" in done.card.read_text()  # the name of the file alone


def test_the_file_says_what_it_holds_to_other_libraries(workplace: Path) -> None:
    checkpoint = checkpoint_of("timm", ImageSpec(3, 32, 32, ("cat", "dog")), network="test_efficientnet")
    done = exported(checkpoint, "safetensors", "net.safetensors")
    with safetensors.safe_open("net.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt" and json.loads(metadata["classes"]) == ["cat", "dog"]
    built = "timm.create_model('test_efficientnet', num_classes=2, checkpoint_path='net.safetensors')"
    assert done.loading == f"import timm; network = {built}"
    assert done.loading in done.card.read_text()
    settings = yaml.safe_load(done.card.read_text().partition("```yaml\n")[2].partition("```")[0])
    assert settings["model"]["network"] == "test_efficientnet"
