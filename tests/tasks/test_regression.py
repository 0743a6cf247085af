"""The regression task: any image network learns numbers, standardized within and in their own units outside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from PIL import Image
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import zoo as face
from zoo.checks.contract import check_entry
from zoo.checks.gradients import check_gradients
from zoo.core.errors import UserError
from zoo.metrics.value_errors import ValueErrors
from zoo.models.softmax import Linear
from zoo.optim.losses import huber
from zoo.optim.losses import mean_absolute_error as l1
from zoo.optim.losses import mean_squared_error as mse
from zoo.registry.registry import scan
from zoo.spec import RegressionSpec, spec_from_primitives, spec_to_primitives
from zoo.tasks.regression import ImageRegressor

SPEC = RegressionSpec(3, 8, 8, targets=("age", "height"), target_mean=(40.0, 1.7), target_std=(20.0, 0.1))
NETWORKS = {entry.class_name: name for name, entry in scan().models.items() if entry.task == "classification"}


def linear(spec: RegressionSpec = SPEC, **recipe):
    return face.create_model("softmax", spec, {"epochs": 30, "optimizer": "sgd", "lr": 0.2, "schedule": "constant", **recipe})


def samples(n: int = 64) -> tuple[Tensor, Tensor]:
    """Images whose brightness follows from two numbers."""
    drawn = torch.randn(n, 2, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    channels = 127 + 40 * torch.cat((drawn, -drawn[:, :1]), 1)
    labels = drawn * torch.tensor([20, 0.1]) + torch.tensor([40, 1.7])
    return channels[:, :, None, None].expand(-1, -1, 8, 8).to(torch.uint8), labels


# ------------------------------------------------------------------ losses and metrics


@pytest.mark.parametrize(
    ("own", "other"),
    [(mse, F.mse_loss), (l1, F.l1_loss), (partial(huber, delta=0.5), partial(F.huber_loss, delta=0.5))],
)
def test_losses_are_those_of_torch_without_unknown_numbers(own, other) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, targets = torch.randn(2, 6, 3, generator=generator)
    torch.testing.assert_close(own(outputs, targets, "mean"), other(outputs, targets))
    outputs.requires_grad_()
    targets[0, 1:] = torch.nan
    torch.testing.assert_close(own(outputs, targets, "none")[0], other(outputs[0, :1], targets[0, :1]))
    (gradient,) = torch.autograd.grad(own(outputs, targets, "mean"), outputs)
    assert gradient[0, 1:].tolist() == [0, 0] and gradient[1:].abs().min() > 0


def test_errors_are_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(200, 3, generator=generator).double()
    predicted = true + 0.3 * torch.randn(200, 3, generator=generator)
    true[torch.rand(200, 3, generator=generator) < 0.2] = torch.nan
    metric = ValueErrors(3).set_dtype(torch.float64)
    for part in torch.arange(200).split(77):
        metric.update(predicted[part], true[part])
    found = metric.compute()
    for column in range(3):
        known = ~true[:, column].isnan()
        pair = true[known, column], predicted[known, column]
        for name, reference in (("mae", mean_absolute_error), ("rmse", root_mean_squared_error), ("r2", r2_score)):
            assert float(found[name][column]) == pytest.approx(reference(*pair), abs=1e-9)


def test_a_constant_has_no_r2() -> None:
    metric = ValueErrors(1).set_dtype(torch.float64)
    metric.update(torch.tensor([[1.0], [2.0]]), torch.full((2, 1), 0.3))
    assert metric.compute()["r2"].isnan().all()


# ------------------------------------------------------------------ in any Trainer


def test_tuples_of_any_loader_train_and_predictions_are_in_units(tmp_path: Path) -> None:
    images, labels = samples()
    torch.manual_seed(0)
    model = linear()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(accelerator="cpu", max_epochs=30, **quiet)
    loader = DataLoader(TensorDataset(images, labels), 16)
    trainer.fit(model, loader, loader)
    assert isinstance(model, ImageRegressor) and isinstance(model, Linear)
    with torch.inference_mode():
        predicted = model.eval().predict_step({"images": images})
    metrics = trainer.callback_metrics
    assert float(metrics["val/r2"]) == pytest.approx(r2_score(labels, predicted), abs=1e-4) and metrics["val/r2"] > 0.99
    assert float(metrics["val/mae"]) == pytest.approx(mean_absolute_error(labels, predicted), rel=1e-3)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    again = Linear.load_from_checkpoint(tmp_path / "own.ckpt")
    assert torch.equal(again.eval().predict_step({"images": images}), predicted)
    (first, *_) = model.predict_images(images)
    assert first.to_dict() == {"values": dict(zip(("age", "height"), predicted[0].tolist(), strict=True))}


def test_a_single_number_may_be_a_vector() -> None:
    images, labels = samples()
    model = linear(RegressionSpec(3, 8, 8, targets=("age",), target_mean=(40.0,), target_std=(20.0,)), epochs=1)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    (found,) = trainer.test(model, DataLoader(TensorDataset(images, labels[:, 0]), 16), verbose=False)
    with torch.inference_mode():
        predicted = model.predict_step({"images": images})
    assert found["test/mae"] == pytest.approx(mean_absolute_error(labels[:, :1], predicted), rel=1e-4)
    assert model.details["targets"]["age"]["mae"] == pytest.approx(found["test/mae"])


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.zeros(4), r"labels are numbers, \[N, 2\], and these are \[4\]"),
        (torch.full((4, 2), torch.inf), "takes finite numbers, or nan where they are unknown"),
    ],
)
def test_labels_that_do_not_fit(labels: Tensor, words: str) -> None:
    model = linear()
    with pytest.raises(UserError, match=words):
        model.check_batch(model.batch_from_tuple(samples(4)[0], labels))


def test_the_statistics_are_plain_data_of_the_spec() -> None:
    assert spec_from_primitives(json.loads(json.dumps(spec_to_primitives(SPEC)))) == SPEC
    with pytest.raises(ValueError, match="need 2 values each"):
        RegressionSpec(3, 8, 8, targets=("a", "b"), target_mean=(0.0,))


def test_a_recipe_of_classification_leaves_its_loss_behind(zoo) -> None:
    refused = zoo("train", "mlp", "--data", "shapes-numbers", "--set", "recipe.loss=bce")
    assert refused.is_one_line_error("recipe.loss=bce", "multilabel", "huber, l1, mse")
    mixing = zoo("train", "mlp", "--data", "shapes-numbers", "--set", "data.augment=mixup")
    assert mixing.is_one_line_error("data.augment=mixup: mixes classes")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(name for class_name, name in NETWORKS.items() if class_name != "KNearestNeighbors"))
def test_every_image_network_keeps_the_contract_with_numbers(name: str) -> None:
    registry = scan()
    settings = [{"data": {"name": "shapes-numbers", "num_images": 64, "size": 32}}]
    assert not [result for result in check_entry(registry, registry.model(name), settings) if not result.passed]


def test_gradients_agree_with_differences() -> None:
    registry = scan()
    results = list(
        check_gradients(registry, registry.model("mlp"), settings=[{"data": {"name": "shapes-numbers", "num_images": 64}}])
    )
    assert results and all(result.passed for result in results)


# ------------------------------------------------------------------ a run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a short training has left its run."""
    folder = tmp_path_factory.mktemp("numbers")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ZOO_HOME", str(folder / "cache"))
        settings = {"data.num_images": 400, "model.hidden_sizes": [32], "trainer.accelerator": "cpu"}
        face.train("mlp", data="shapes-numbers", epochs=2, name="run", settings=settings)
        data = face.create_data("shapes-numbers", num_images=400)
        Image.fromarray(data.load_splits()["test"].images.pixels[0].permute(1, 2, 0).numpy()).save("a.png")
        yield folder


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ZOO_HOME", str(folder / "cache"))
    return "run"


def test_it_is_tested_in_the_units_of_its_data(zoo, run: str) -> None:
    found = json.loads(zoo("test", run, "--json").out)
    split = face.create_data("shapes-numbers", num_images=400).load_splits()["test"]
    with torch.inference_mode():
        predicted = face.load(run).model.cpu().predict_step({"images": split.images.pixels})
    assert found["test/r2"] == pytest.approx(r2_score(split.labels, predicted), abs=1e-4)
    assert found["test/mae"] == pytest.approx(mean_absolute_error(split.labels, predicted), rel=1e-4)
    assert found["targets"]["size"]["rmse"] == pytest.approx(
        root_mean_squared_error(split.labels[:, 2], predicted[:, 2]), rel=1e-4
    )
    assert "cosine" in zoo("test", run).out
    assert zoo("test", run, "--csv", "a.csv").is_one_line_error("per-class metrics are for classifiers", "regression")


def test_it_predicts_numbers(zoo, run: str) -> None:
    (found,) = json.loads(zoo("predict", run, "a.png", "--json").out)
    assert list(found["values"]) == ["x", "y", "size", "sine", "cosine"]
    assert "sine" in zoo("predict", run, "a.png").out


def test_its_report_and_picture_show_truth_and_prediction(zoo, run: str) -> None:
    assert zoo("report", run).code == 0
    page = Path("runs/run/report.html").read_text()
    assert "has an R2 of" in page and "on the dashed diagonal" in page and "true x" in page
    assert zoo("picture", "scatter", run).code == 0 and Path("run-scatter.png").exists()
    assert zoo("picture", "saliency", run).is_one_line_error("is for classification", "regression")


def test_it_is_exported(zoo, run: str) -> None:
    assert zoo("export", run, "--to", "safetensors", "-o", "net.safetensors").code == 0
    card = Path("net.safetensors.md").read_text()
    assert "a network that predicts 5 numbers for an image" in card and "`values`: float32, [N, 5]" in card
    assert zoo("predict", "net.safetensors", "a.png", "--json").out == zoo("predict", run, "a.png", "--json").out
