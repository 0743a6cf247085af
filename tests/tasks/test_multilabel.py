"""The multi-label task: any image network learns it, and its thresholds go wherever the network goes."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import zoo as face
from zoo.analysis import probes
from zoo.checks.contract import check_entry
from zoo.checks.gradients import check_gradients
from zoo.core.errors import UserError
from zoo.models.convnet import ConvNet
from zoo.models.softmax import Linear
from zoo.registry.registry import scan
from zoo.spec import IGNORE, ImageSpec, MultiLabelSpec, spec_from_primitives, spec_to_primitives
from zoo.tasks.classification import Classifier
from zoo.tasks.multilabel import MultiLabelClassifier

SPEC = MultiLabelSpec(3, 8, 8, classes=("ant", "bee", "cat"))
NETWORKS = {entry.class_name: name for name, entry in scan().models.items() if entry.task == "classification"}
SMALL = {"data": {"name": "shapes-labels", "num_images": 64}}


def softmax(spec: ImageSpec = SPEC, **recipe):
    return face.create_model("softmax", spec, {"epochs": 1, "optimizer": "sgd", "lr": 0.05, "schedule": "constant", **recipe})


def samples(n: int = 64) -> tuple[Tensor, Tensor]:
    """Images of which each channel is bright where the class of its place is there."""
    labels = torch.randint(0, 2, (n, 3), generator=torch.Generator().manual_seed(0))
    return (60 + 120 * labels[:, :, None, None].expand(-1, -1, 8, 8)).to(torch.uint8), labels


def quiet(**options) -> L.Trainer:
    off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(accelerator="cpu", **{"max_epochs": 1, **off, **options})


# ------------------------------------------------------------------ one network, several tasks


def test_the_spec_chooses_the_loop() -> None:
    several, one = face.create_model("convnet", SPEC), face.create_model("convnet", ImageSpec(3, 8, 8, ("a", "b")))
    assert isinstance(several, ConvNet) and isinstance(several, MultiLabelClassifier) and not isinstance(several, Classifier)
    assert isinstance(one, ConvNet) and isinstance(one, Classifier) and type(several).__name__ == "ConvNet"
    for other in (copy.deepcopy(several), pickle.loads(pickle.dumps(several))):
        batch = several.example_batch(3)
        assert type(other) is type(several) and torch.equal(other.eval().predict_step(batch), several.eval().predict_step(batch))


def test_a_network_with_a_loop_of_its_own_is_refused(zoo) -> None:
    with pytest.raises(UserError, match="KNearestNeighbors is for classification alone, and this data for multilabel"):
        face.create_model("knn", SPEC)
    refused = zoo("train", "svm", "--data", "shapes-labels", "--set", "recipe.loss=hinge")
    assert refused.is_one_line_error("recipe.loss=hinge: is for classification", "multilabel", "bce, focal")
    assert zoo("train", "captioner", "--data", "shapes-labels").is_one_line_error("captioning", "shapes-captions")


def test_models_are_found_by_the_task_that_they_learn(zoo) -> None:
    found = [
        {entry["name"] for entry in json.loads(zoo("list", "--task", task, "--json").out)}
        for task in ("classification", "multilabel")
    ]
    assert found[0] == found[1] == set(face.list_models(task="multilabel"))
    assert {entry["name"] for entry in json.loads(zoo("data", "list", "--task", "multilabel", "--json").out)} == {
        "shapes-labels",
        "multilabel-table",
    }
    assert zoo("list", "multilabel").is_one_line_error("is a task: zoo data list --task multilabel")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(name for class_name, name in NETWORKS.items() if class_name != "KNearestNeighbors"))
def test_every_image_network_keeps_the_contract_with_several_labels(name: str) -> None:
    registry = scan()
    settings = [{"data": {**SMALL["data"], "size": 32}}]
    assert not [result for result in check_entry(registry, registry.model(name), settings) if not result.passed]


def test_gradients_agree_with_differences() -> None:
    registry = scan()
    results = list(check_gradients(registry, registry.model("mlp"), settings=[{"data": {**SMALL["data"], "size": 32}}]))
    assert results and all(result.passed for result in results)


# ------------------------------------------------------------------ in any Trainer


def test_tuples_of_any_loader_train_and_choose_thresholds(tmp_path: Path) -> None:
    images, labels = samples()
    weights = []
    for own in (labels, labels.float()):
        torch.manual_seed(0)
        model = softmax()
        loader = DataLoader(TensorDataset(images, own), 16)
        trainer = quiet()
        trainer.fit(model, loader, loader)
        weights.append(model.linear.weight.detach())
    torch.testing.assert_close(*weights)
    with torch.inference_mode():
        scores = model.eval().predict_step({"images": images})
    predicted = scores >= model.thresholds
    metrics = trainer.callback_metrics
    assert float(metrics["val/mAP"]) == pytest.approx(average_precision_score(labels, scores, average="macro"))
    assert float(metrics["val/f1_macro"]) == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert model.spec.thresholds and (predicted == labels.bool()).all(), "what is easily told apart"
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    assert Linear.load_from_checkpoint(tmp_path / "own.ckpt").spec == model.spec


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.zeros(4, dtype=torch.long), r"labels are 1 or 0 for each class, \[N, 3\], and these are \[4\]"),
        (torch.full((4, 3), 2), "labels of several classes are 1, 0, or -100 where unknown, and one is 2"),
    ],
)
def test_labels_that_do_not_fit(labels: Tensor, words: str) -> None:
    with pytest.raises(UserError, match=words):
        quiet().fit(softmax(), DataLoader(TensorDataset(samples(4)[0], labels), 4))


def test_mixed_images_have_mixed_labels() -> None:
    from zoo.datamodules.loading.augmentations.mixing import mixup

    images, labels = samples(8)
    labels[0, 0] = IGNORE
    mixed = mixup({"images": images, "labels": labels.to(torch.int8)}, torch.Generator().manual_seed(0), classes=3)
    brightness = (mixed["images"].mean((2, 3)) - 60) / 120
    known = ~mixed["targets"].isnan()
    assert not known.all() and known.sum() >= 22
    torch.testing.assert_close(mixed["targets"][known], brightness[known], atol=1e-4, rtol=0)
    assert softmax().loss(torch.zeros(8, 3), mixed["targets"]).isfinite()


def test_views_have_the_mean_of_their_probabilities() -> None:
    model, logits = softmax(), 3 * torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.predictions(model.merge_views(logits)), logits.sigmoid().mean(0))


def test_thresholds_are_plain_data_of_the_spec() -> None:
    spec = MultiLabelSpec(3, 8, 8, classes=("ant", "bee"), thresholds=(0.25, 0.5))
    assert spec_from_primitives(json.loads(json.dumps(spec_to_primitives(spec)))) == spec
    with pytest.raises(ValueError, match="thresholds need 2 values"):
        MultiLabelSpec(3, 8, 8, classes=("ant", "bee"), thresholds=(0.25,))


# ------------------------------------------------------------------ a run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a short training has left its run."""
    folder = tmp_path_factory.mktemp("labels")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ZOO_HOME", str(folder / "cache"))
        settings = {"data.num_images": 400, "model.hidden_sizes": [32], "trainer.accelerator": "cpu"}
        run = face.train("mlp", data="shapes-labels", epochs=2, name="run", settings=settings)
        data = face.create_data("shapes-labels", num_images=400)
        data.prepare_data()
        data.setup()
        Image.fromarray(data.splits["test"].images.pixels[0].permute(1, 2, 0).numpy()).save("a.png")
        assert len(run.model.spec.thresholds) == 11
        yield folder


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ZOO_HOME", str(folder / "cache"))
    return "run"


def test_it_is_tested_at_the_thresholds_of_its_checkpoint(zoo, run: str) -> None:
    found = json.loads(zoo("test", run, "--json").out)
    model = face.load(run).model.cpu()
    data = face.create_data("shapes-labels", num_images=400)
    data.prepare_data()
    data.setup()
    split = data.splits["test"]
    with torch.inference_mode():
        scores = model.predict_step({"images": split.images.pixels})
    predicted = scores >= torch.tensor(model.spec.thresholds)
    assert found["test/mAP"] == pytest.approx(average_precision_score(split.labels, scores), abs=1e-5)
    assert found["test/f1_micro"] == pytest.approx(f1_score(split.labels, predicted, average="micro"), abs=1e-5)
    assert found["classes"]["red"]["threshold"] == pytest.approx(model.spec.thresholds[4])
    printed = zoo("test", run, "--csv", "classes.csv").out
    assert "average precision" in printed and "confusion" not in printed
    assert [line.partition(",")[0] for line in Path("classes.csv").read_text().splitlines()[1:]] == list(data.spec.classes)


def test_it_predicts_labels(zoo, run: str) -> None:
    (found,) = json.loads(zoo("predict", run, "a.png", "--json").out)
    thresholds = dict(zip(found["probabilities"], face.load(run).model.spec.thresholds, strict=True))
    assert found["labels"] == [name for name, value in found["probabilities"].items() if value >= thresholds[name]]
    assert ", ".join(found["labels"]) in zoo("predict", run, "a.png").out
    assert zoo("predict", run, "a.png", "--top", 2).is_one_line_error("--top does not apply to multilabel")


def test_it_is_exported_with_its_thresholds(zoo, run: str) -> None:
    assert zoo("export", run, "--to", "safetensors", "-o", "net.safetensors").code == 0
    card = Path("net.safetensors.md").read_text()
    assert "a multi-label image classifier with 11 classes" in card and "0. circle, predicted from a probability of" in card
    assert zoo("predict", "net.safetensors", "a.png", "--json").out == zoo("predict", run, "a.png", "--json").out


@pytest.mark.slow
def test_a_graph_holds_its_thresholds(zoo, run: str) -> None:
    assert zoo("export", run, "--to", "torch-export", "-o", "net.pt2").code == 0
    kept = {"thresholds": ""}
    torch.export.load("net.pt2", extra_files=kept)
    assert json.loads(kept["thresholds"]) == pytest.approx(face.load(run).model.spec.thresholds)


def test_its_report_shows_classes_and_mistakes(zoo, run: str) -> None:
    assert zoo("report", run).code == 0
    page = Path("runs/run/report.html").read_text()
    assert "mean average precision" in page and "average precision  precision" in page and "multilabel" in page
    assert zoo("picture", "saliency", run, "a.png").code == 0 and Path("run-saliency.png").exists()
    assert zoo("picture", "confusion", run).is_one_line_error("is for classification", "multilabel")
    assert zoo("tune", run, "--calibrate").is_one_line_error("is for classification", "multilabel")


def test_its_features_are_probed_on_images_with_classes(zoo, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "PENALTIES", (1e-2,))
    assert zoo("probe", run).is_one_line_error("run was trained for multilabel", "--data photos/")
    assert zoo("probe", run, "--data", "shapes-labels").is_one_line_error("shapes-labels is for multilabel, a probe for class")
    for index in range(40):
        color = (250, 5 * index, 0) if index % 2 else (0, 5 * index, 250)
        Path(f"probed/{index % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), color).save(f"probed/{index % 2}/{index}.png")
    settings = ("--set", "data.validation=0.2", "--set", "data.test=0.3")
    answer = zoo("probe", run, "--data", "probed/", *settings, "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["features"] == 32 and found["linear"] == 1 and found["knn"] > 0.9


def test_it_is_served(run: str) -> None:
    from starlette.testclient import TestClient

    from zoo.serve.application import Application
    from zoo.serve.uploads import Limits

    trained = face.load(run)
    application = Application(trained.model.cpu(), trained.config, run, {}, Limits(), hosts=["testserver"])
    with TestClient(application) as client:
        about = client.get("/model").json()
        (found,) = client.post("/predict", files={"images": ("a.png", Path("a.png").read_bytes())}).json()
    assert about["task"] == "multilabel" and "none of them" in about["meaning"]
    (expected,) = trained.predict("a.png")
    assert found["labels"] == expected.to_dict()["labels"]


def test_the_recipes_of_losses_are_checked(zoo, run: str) -> None:
    for value, words in (
        ("[1,2]", ("recipe.loss_args.pos_weight has 2 values", "11 classes")),
        ("-2", ("recipe.loss_args.pos_weight=-2.0: must be at least 0",)),
        ("[]", ("recipe.loss_args.pos_weight has 0 values", "11 classes")),
    ):
        loss = ("--set", "recipe.loss=bce", "--set", f"recipe.loss_args.pos_weight={value}")
        small = ("--set", "data.num_images=10")
        assert zoo("train", "mlp", "--data", "shapes-labels", "--name", "refused", *small, *loss).is_one_line_error(*words)
    assert not Path("runs/refused").exists()
