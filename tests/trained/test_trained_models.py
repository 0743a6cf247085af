"""The trained models that come along: they load without a network, reach their stated metrics, and stand where runs do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import zoo as face
from zoo.registry.registry import scan
from zoo.tasks.task import Task
from zoo.trained.make import LICENSE, TABLE, card
from zoo.training.building import open_trained
from zoo.training.exported import read_exported, write_exported
from zoo.training.run_folder import RunFolder
from zoo.training.sources import find_trained
from zoo.training.trained_models import TrainedModel, trained_models

MODELS = trained_models()
DIGITS = "resnet20.digits"
LIMIT = 25e6  # bytes of all
QUICK = {"mlp.digits", DIGITS}  # whose test takes a moment


@pytest.fixture
def photo(workplace: Path) -> Path:
    """A bright stroke on black."""
    pixels = np.zeros((32, 32), np.uint8)
    pixels[4:28, 14:18] = 255
    Image.fromarray(pixels).save("one.png")
    return workplace / "one.png"


SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
FOLDERS = {"mnist": SHARED / "mnist"}  # of data that does not come along


def cases() -> list[object]:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MODELS]


@pytest.mark.parametrize("name", cases())
def test_the_stated_metrics_are_those_of_a_test(name: str) -> None:
    folder = FOLDERS.get(MODELS[name].data_set)
    if folder and not folder.is_dir():
        pytest.skip(f"{MODELS[name].data_set} is not at {folder}")
    stated = MODELS[name].metrics
    tested = face.load(name).test(settings=[f"data.root={folder}"] if folder else [])
    assert tested.keys() == stated.keys()
    assert tested == pytest.approx(stated, rel=1e-5, abs=0)  # sums in another order, on other numbers of threads
    assert f"{tested[MODELS[name].metric]:.4g}" == f"{stated[MODELS[name].metric]:.4g}"


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_a_card_says_what_the_file_and_the_table_say(model: TrainedModel) -> None:
    plan = TABLE[model.name]
    assert (model.command, model.data, model.limits, model.license) == (plan.command, plan.data, plan.limits, LICENSE)
    assert model.card.read_text(encoding="utf-8") == card(model)


def test_table_and_files_are_the_same_models_and_small() -> None:
    assert TABLE.keys() == MODELS.keys()
    assert sum(model.bytes for model in MODELS.values()) < LIMIT


def test_they_are_listed_with_metric_and_size_without_torch(zoo) -> None:
    listed = json.loads(zoo("list", "--trained", "--json").out)
    assert [entry["name"] for entry in listed] == sorted(MODELS) == face.list_models(trained=True)
    for entry in listed:
        assert entry["bytes"] == Path(face.load(entry["name"]).file).stat().st_size
        assert entry["metric"] in entry["metrics"]
    assert face.list_models("*.digits", trained=True) == ["mlp.digits", DIGITS]
    assert "navigator.rooms" in face.list_models(task="navigation", trained=True)
    assert f"accuracy {MODELS[DIGITS].metrics['test/accuracy']:.4g}" in zoo("list", "--trained", "resnet").out
    assert zoo("list", "--trained", "resnet20.digts").is_one_line_error("no trained model", "did you mean 'resnet20.digits'?")
    code = "import sys; sys.argv = ['zoo', 'list', '--trained']\nfrom zoo.cli import app\ntry: app()\nexcept SystemExit: pass\n"
    subprocess.run([sys.executable, "-c", code + "assert not {'torch', 'pydantic'} & set(sys.modules)"], check=True)


def test_a_card_is_shown_under_the_name(zoo) -> None:
    assert zoo("show", DIGITS).out == MODELS[DIGITS].card.read_text(encoding="utf-8")
    assert json.loads(zoo("show", DIGITS, "--json").out)["license"] == LICENSE
    assert zoo("show", DIGITS, "--layers").is_one_line_error("name resnet20")


def test_images_are_classified(zoo, photo: Path) -> None:
    (answer,) = json.loads(zoo("predict", DIGITS, photo, "--json").out)
    assert answer["top"][0]["class"] == "1"


@pytest.mark.slow
def test_commands_for_images_take_the_name(zoo, photo: Path) -> None:
    for command in (
        ("embed", DIGITS, photo, "-o", "features.npz"),
        ("picture", "saliency", DIGITS, photo),
        ("picture", "filters", DIGITS),
        ("export", DIGITS, "--to", "safetensors", "-o", "again.safetensors"),
    ):
        assert zoo(*command).code == 0, command
    assert {path.name for path in Path().glob("*.png")} == {"one.png", f"{DIGITS}-saliency.png", f"{DIGITS}-filters.png"}
    assert f"{MODELS[DIGITS].metrics['test/accuracy']:.4f}" in Path("again.safetensors.md").read_text(encoding="utf-8")
    assert f"License: {LICENSE}" in Path("again.safetensors.md").read_text(encoding="utf-8")
    assert zoo("predict", "again.safetensors", photo, "--json").out == zoo("predict", DIGITS, photo, "--json").out


@pytest.mark.slow
def test_it_is_fine_tuned_and_its_weights_are_taken(zoo) -> None:
    quick = [word for limit in ("train", "val", "test") for word in ("--set", f"trainer.limit_{limit}_batches=1")]
    done = zoo("finetune", DIGITS, "--freeze", "backbone", "--epochs", 1, "--name", "finer", *quick)
    assert done.code == 0, done.err
    before, after = (dict(face.load(name).model.named_parameters()) for name in (DIGITS, "finer"))
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if not name.startswith("head.")}
    kept = zoo("finetune", "resnet20", "--weights", DIGITS, "--plan")
    assert kept.code == 0 and f"from {DIGITS}" in kept.out


def test_the_encoder_of_another_network_takes_them() -> None:
    assert isinstance(open_trained(scan(), DIGITS), Task)


def test_what_needs_records_names_the_command_that_makes_them(zoo) -> None:
    remedy = "to make one: zoo train resnet20 --data digits"
    for command in (
        ("report", DIGITS),
        ("watch", DIGITS),
        ("autopsy", DIGITS),
        ("train", "--resume", DIGITS),
        ("picture", "curves", DIGITS),
        ("tune", DIGITS, "--calibrate"),
    ):
        assert zoo(*command).is_one_line_error(f"{DIGITS} is a trained model of the zoo", remedy), command
    with pytest.raises(face.UserError, match=remedy):
        face.load(DIGITS).history()
    assert not Path("runs").exists()


def test_a_run_and_a_file_of_the_name_come_first(zoo, workplace: Path) -> None:
    assert zoo("predict", "resnet20.digts", "a.png").is_one_line_error("did you mean 'resnet20.digits'")
    run = workplace / "runs" / "mlp.digits"
    run.mkdir(parents=True)
    (run / "run.yaml").write_text("{}")
    assert isinstance(find_trained("mlp.digits"), RunFolder)
    (workplace / DIGITS).touch()
    with pytest.raises(face.UserError, match="is not a run"):
        find_trained(DIGITS)


def test_a_new_run_cannot_be_named_after_what_it_begins_with(zoo, workplace: Path) -> None:
    answer = zoo("finetune", DIGITS, "--name", DIGITS)
    assert answer.is_one_line_error(f"--name {DIGITS}: recipe.weights={DIGITS} would mean the new run itself")
    assert zoo("train", "mlp", "--set", "recipe.teacher=new", "--name", "new").is_one_line_error("recipe.teacher=new would")
    assert not [*workplace.iterdir()]
    answer = zoo("train", "mlp", "--weights", "pretrained", "--name", "pretrained")
    assert answer.is_one_line_error("MLP has no pretrained weights"), "which are no run"
    (workplace / "runs" / DIGITS).mkdir(parents=True)  # as a training leaves that was killed before its first step
    assert not isinstance(find_trained(DIGITS), RunFolder)


def test_a_trained_model_in_the_place_of_its_network_is_told_apart(zoo) -> None:
    further = f"{DIGITS} is trained: to train it further, zoo finetune {DIGITS}; to train another, zoo train resnet20"
    assert zoo("train", DIGITS).is_one_line_error(further)
    assert zoo("search", DIGITS, "--over", "recipe.lr=log:1e-3..1e-1").is_one_line_error(further)
    for command in (("show", "resnet20.digts"), ("finetune", "resnet20.digts")):
        assert zoo(*command).is_one_line_error(f"did you mean '{DIGITS}'")


def test_weights_that_do_not_fit_name_the_options_of_their_network(zoo) -> None:
    options = ("--weights", DIGITS, "--set", "model.width=8", "--set", "model.norm=batch")
    answer = zoo("train", "resnet20", *options)
    assert answer.is_one_line_error("does not fit this network") and answer.err.endswith(
        "; they were trained with model.width=16\n"
    )
    assert "trained with model.depth=20\n" in zoo("train", "resnet56", "--weights", DIGITS).err


def test_a_network_is_created_with_its_weights_or_with_a_new_head() -> None:
    images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    model, trained = face.create_model(DIGITS, pretrained=True), face.load(DIGITS).model
    assert model.training and not trained.training
    assert torch.equal(model.eval().predict_step({"images": images}), trained.predict_step({"images": images}))
    slow = face.create_model(DIGITS, pretrained=True, recipe={"lr": 1e-4})
    assert slow.recipe.lr == 1e-4 and torch.equal(slow.head.weight, model.head.weight)
    other = face.create_model(DIGITS, pretrained=True, num_classes=5).eval()
    assert other.predict_step({"images": images}).shape == (3, 5)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items() if "head" not in name)
    with pytest.raises(face.UserError, match="omit depth"):
        face.create_model(DIGITS, pretrained=True, depth=32)
    with pytest.raises(face.UserError, match="add pretrained=True, or name resnet20"):
        face.create_model(DIGITS)


def test_half_precision_is_for_storage_alone(workplace: Path) -> None:
    checkpoint = read_exported(MODELS["mlp.digits"].file)
    checkpoint["state_dict"] = {name: value * (1 + 1e-5) for name, value in checkpoint["state_dict"].items()}
    write_exported(checkpoint, Path("half.safetensors"), half=True)
    with safe_open("half.safetensors", framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
    for name, value in read_exported(Path("half.safetensors"))["state_dict"].items():
        assert torch.equal(value, checkpoint["state_dict"][name].half().float())
