"""Artifacts at W&B: what a run was made from, its trained weights, and models by name."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zoo as package
from tests.training.wandb_tracking import tracker, wandb_sync, warnings_of
from tests.wandb_records import records
from zoo.core.errors import UserError
from zoo.training.exported import write_exported
from zoo.training.run_folder import RunFolder
from zoo.training.tracking import wandb_tracker
from zoo.training.tracking.lineage import Origin
from zoo.training.weights import wandb_models

pytestmark = pytest.mark.usefixtures("own_wandb")
IMAGES = torch.randint(0, 256, (20, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
QUICK = {"trainer.accelerator": "cpu"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> package.TrainedRun:
    """A run without a tracker."""
    return package.train("softmax", epochs=2, settings=QUICK, name="plain", runs=tmp_path_factory.mktemp("runs"), progress=False)


@pytest.fixture(scope="module")
def exported(trained: package.TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("exported") / "model.safetensors"
    write_exported(torch.load(trained.file, weights_only=True), path)
    return path.read_bytes()


def probabilities(run: package.TrainedRun) -> np.ndarray:
    return np.array([prediction.probability for prediction in run.predict(IMAGES)])


@pytest.mark.slow
def test_a_trained_model_comes_back_by_name_with_equal_predictions_and_its_lineage(zoo, wandb_server, caplog):
    store = wandb_server.artifacts
    online = ["--wandb", "online", "--set", "trainer.accelerator=cpu", "--epochs", "2"]
    uploading = ["--set", "wandb.artifacts=weights", "--set", "wandb.link=wandb-registry-model/digits"]
    assert zoo("train", "mlp", *online, *uploading, "--name", "first").code == 0
    run = package.load("first")
    best, model = run.metrics, store.all("model")[-1]
    assert {"best", "latest"} <= model.aliases and "last" in {alias for each in store.all("model") for alias in each.aliases}
    assert model.links == ["zoological-org/wandb-registry-model/digits"]
    about = model.metadata
    assert (about["model"], about["data"], about["metric"], about["classes"]) == (
        "mlp",
        "digits",
        "val/accuracy",
        list("0123456789"),
    )
    assert about["metrics"]["test/accuracy"] == best["test/accuracy"] and about["step"] > 0 and about["epoch"] in (1, 2)
    assert f"{about['metrics']['val/accuracy']:.4g}" in model.description and about["sha256"]
    (data,) = store.used[model.logged_by]
    assert (data.type, data.name, data.index) == ("dataset", "digits", 0) and data.logged_by is None
    assert data.metadata["samples"] == {"train": 1295, "val": 143, "test": 359} and len(data.metadata["fingerprint"]) == 64

    loaded = package.load(f"wandb:someone/bestiary/{model.name}:best")
    assert np.array_equal(probabilities(loaded), probabilities(run))
    assert loaded.config.model == run.config.model and loaded.name == model.name
    assert loaded.test()["test/accuracy"] == pytest.approx(best["test/accuracy"])
    assert package.load("wandb:wandb-registry-model/digits").path == loaded.path, "a linked model is the same version"
    Image.fromarray(IMAGES[0, 0].numpy()).save("digit.png")
    ours, theirs = (zoo("predict", name, "digit.png", "--json") for name in ("first", f"wandb:{model.name}:best"))
    assert ours.code == 0 and ours.out == theirs.out

    backbone = f"wandb:{model.name}:best"
    assert zoo("finetune", backbone, "--data", "digits", *online, "--name", "second").code == 0
    assert zoo("finetune", "first", "--data", "digits", *online, "--name", "third").code == 0
    for runs in list(store.used.values())[1:]:
        assert [(each.type, each.name, each.index) for each in runs] == [
            ("model", model.name, model.index),
            ("dataset", "digits", 0),
        ]
    assert len(store.used) == 3 and len(store.all("dataset")) == 1
    assert not warnings_of(caplog)


def models(folder: Path) -> list[tuple[list[str], list[str]]]:
    """The aliases and the files of each model that a run recorded."""
    artifacts = [record.artifact for record in records(folder) if record.artifact.type == "model"]
    return [(sorted(each.aliases), [entry.path for entry in each.manifest.contents]) for each in artifacts]


@pytest.mark.parametrize("content", ["off", "weights", "checkpoint"])
def test_best_and_last_are_versions_of_one_artifact_as_asked_for(tmp_path, trained, content):
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    checkpoint = torch.load(trained.file, weights_only=True)
    torch.save(checkpoint, folder.best)
    name = next(iter(checkpoint["state_dict"]))
    checkpoint["state_dict"][name] = checkpoint["state_dict"][name] + 1
    torch.save(checkpoint, folder.last)
    log = tracker(tmp_path, artifacts=content)
    log.open()
    log.upload(folder)
    folder.best.write_bytes(folder.last.read_bytes())
    log.upload(folder)
    log.close()
    suffix = {"off": "", "weights": ".safetensors", "checkpoint": ".ckpt"}[content]
    each, both = [(["last", "latest"], [f"model{suffix}"]), (["best", "latest"], [f"model{suffix}"])], ["best", "last", "latest"]
    assert models(tmp_path) == (each + [(both, [f"model{suffix}"])] if suffix else [])


@pytest.mark.slow
@pytest.mark.parametrize("call", ["query ArtifactType", "/file/", "LinkArtifact", "UseArtifact"])
def test_artifacts_are_left_to_a_sync_whichever_call_the_server_does_not_answer(
    tmp_path, wandb_server, trained, monkeypatch, caplog, call
):
    for limit in ("FINISH_SECONDS", "UPLOAD_SECONDS"):
        monkeypatch.setattr(wandb_tracker, limit, 2.0)
    folder = RunFolder(Path(shutil.copytree(trained.path, tmp_path / "run")))
    log = tracker(folder.path, mode="online", artifacts="weights", link="wandb-registry-model/digits")
    log.open()
    wandb_server.hangs = (call,)
    log.log_origins(lambda: [Origin("digits", "dataset", {"fingerprint": "a"})])
    log.upload(folder)
    log.close()
    (warning,) = warnings_of(caplog)
    command, _, link = warning.partition("wandb sync ")[2].partition(" && ")
    assert ("wandb-registry-model/digits" in link) == (call != "UseArtifact"), "after which it was linked"
    wandb_server.hangs = ()
    done = wandb_sync(*shlex.split(command))
    assert done.returncode == 0, done.stderr
    store = wandb_server.artifacts
    assert {(each.type, each.state) for each in store.versions.values()} == {("dataset", "COMMITTED"), ("model", "COMMITTED")}
    assert {each.name for each in store.used[log.run_id]} == {"digits"}


@pytest.mark.slow
def test_an_offline_run_brings_its_lineage_and_its_model_when_it_is_synced(zoo, wandb_server):
    settings = ["--set", "trainer.accelerator=cpu", "--set", "wandb.artifacts=checkpoint", "--epochs", "1"]
    assert zoo("train", "softmax", "--wandb", "offline", *settings, "--name", "first").code == 0
    assert zoo("finetune", "first", "--data", "digits", "--wandb", "offline", *settings, "--name", "second").code == 0
    assert not wandb_server.artifacts.versions
    for name in ("first", "second"):
        done = wandb_sync(*Path("runs", name).glob("wandb/offline-run-*"))
        assert done.returncode == 0, done.stderr
    store = wandb_server.artifacts
    first, second = store.used.values()
    assert [(each.type, each.name, each.index) for each in first] == [("dataset", "digits", 0)]
    origin = next(each for each in second if each.type == "model")
    assert (origin.name, origin.metadata["run"]) == ("first-weights", "first")
    assert len(second) == 2 and first[0] in second
    model = next(each for each in store.all("model") if each.logged_by)
    loaded = package.load(f"wandb:{model.name}:best")
    assert np.array_equal(probabilities(loaded), probabilities(package.load("first")))


@pytest.mark.slow
def test_the_files_of_the_data_are_logged_when_asked_for_and_equal_ones_are_one_version(tmp_path, wandb_server):
    for kind, shade in (("dark", 20), ("light", 180)):
        (Path("elsewhere") / kind).mkdir(parents=True)
        for number in range(20):
            Image.new("L", (8, 8), shade + number).save(f"elsewhere/{kind}/{number}.png")
    for root, more in (("elsewhere", {"wandb.log_data": True}), ("photos", {})):
        settings = {**QUICK, "data.root": root, "data.validation": 0.2, "data.test": 0.2, **more}
        if root == "photos":
            Path("elsewhere").rename("photos")
        package.train("softmax", data="folder", epochs=1, wandb="online", settings=settings, progress=False)
    whole, named = wandb_server.artifacts.all("dataset")
    assert (whole.name, named.name) == ("elsewhere", "photos")
    assert {key: whole.metadata[key] for key in ("data", "classes")} == {"data": "folder", "classes": ["dark", "light"]}
    assert whole.metadata["fingerprint"] == named.metadata["fingerprint"], "of the content, wherever it lies"
    paths = set(json.loads(whole.manifest)["contents"])
    assert {path for path in paths if path.startswith("files/")} == {
        f"files/{k}/{n}.png" for k in ("dark", "light") for n in range(20)
    }
    assert set(json.loads(named.manifest)["contents"]) == {"dataset.json"}


def refused(name: str) -> str:
    with pytest.raises(UserError) as caught:
        package.load(name)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_version_is_fetched_once_and_then_found_without_the_server(wandb_server, exported, trained, monkeypatch, capfd):
    wandb_server.artifacts.add("flowers", "model", {"model.safetensors": exported, "notes.txt": b"?"}, "best")
    monkeypatch.setenv("WANDB_PROJECT", "other")
    with pytest.raises(UserError, match="other"):
        package.load("wandb:flowers:best")
    monkeypatch.delenv("WANDB_PROJECT")
    capfd.readouterr()
    run = package.load("wandb:bestiary/flowers")
    assert np.array_equal(probabilities(run), probabilities(trained))
    assert package.load("wandb:flowers:best").path == run.path
    assert capfd.readouterr().err.count("fetching") == 1
    wandb_server.http.shutdown()
    wandb_server.http.server_close()
    assert package.load("wandb:flowers:v0").path == run.path
    assert "in the cache: wandb:bestiary/flowers:v0" in refused("wandb:flowers:best")


def test_a_checkpoint_at_wandb_is_kept_as_an_exported_file(wandb_server, trained):
    wandb_server.artifacts.add("flowers", "model", {"model.ckpt": trained.file.read_bytes()}, "best")
    run = package.load("wandb:flowers:best")
    assert run.path.suffix == ".safetensors" and np.array_equal(probabilities(run), probabilities(trained))


def test_a_model_that_cannot_be_had_is_one_line_with_the_nearest_right_name(wandb_server, exported, monkeypatch):
    store = wandb_server.artifacts
    store.add("flowers", "model", {"model.safetensors": exported}, "best")
    store.add("photos", "dataset", {"dataset.json": b"{}"})
    store.add("pair", "model", {"a.safetensors": exported, "b.safetensors": b""})
    store.add("code", "model", {"model.ckpt": b"\x80\x04evil"})
    assert "did you mean 'best'?" in refused("wandb:flowers:bets")
    assert "did you mean 'flowers'?" in refused("wandb:flower:best")
    assert "is a dataset, not a model" in refused("wandb:photos")
    assert "a.safetensors, b.safetensors" in refused("wandb:pair")
    assert "damaged or not a checkpoint" in refused("wandb:code")
    assert wandb_models.FORM in refused("wandb:a/b/c/d:best")
    monkeypatch.delenv("WANDB_API_KEY")
    assert "wandb login" in refused("wandb:flowers:best")


@pytest.mark.parametrize("digest", ["SHA-256", "MD5"])
def test_a_file_that_is_not_the_one_that_was_logged_is_refused_and_not_kept(wandb_server, exported, digest):
    store = wandb_server.artifacts
    store.add("flowers", "model", {"model.safetensors": exported}, sha256="0" * 64 if digest == "SHA-256" else "")
    if digest == "MD5":
        store.contents = dict.fromkeys(store.contents, exported[:-1] + b"?")
    assert digest in refused("wandb:flowers")
    assert not list((Path("..") / "cache").resolve().rglob("*.safetensors"))


def test_a_server_that_stops_sending_is_given_up(wandb_server, exported, monkeypatch):
    wandb_server.artifacts.add("flowers", "model", {"model.safetensors": exported})
    wandb_server.hangs = ("/artifactsV2/",)
    monkeypatch.setattr(wandb_models, "PATIENCE", 0.5)
    assert "no byte within" in refused("wandb:flowers")


def test_equal_networks_are_equal_files(trained, tmp_path):
    checkpoint = torch.load(trained.file, weights_only=True)
    for number in range(4):  # the library writes metadata in another order each time
        write_exported(checkpoint, tmp_path / str(number), classes="a", license="b")
    assert len({(tmp_path / str(number)).read_bytes() for number in range(4)}) == 1
