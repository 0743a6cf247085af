"""Temperature scaling: against scipy, and in everything that tells the probabilities of a calibrated run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from torch.nn import functional as F

import zoo as zoo_package
from zoo.metrics.calibration import fit_temperature
from zoo.training import calibrating
from zoo.training.checkpoints import read_checkpoint

OVERCONFIDENT = ["--epochs", "3", "--set", "recipe.lr=0.02", "--set", "recipe.schedule=constant", "--set", "data.augment=none"]


def noisy(scale: float, n: int = 400, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose softmax is calibrated at ``scale``, and labels drawn from it."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, classes, generator=generator) * 2
    return logits * scale, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize("scale", [0.02, 0.5, 1.0, 4.0, 60.0])
def test_the_temperature_is_that_of_a_general_minimizer(scale: float) -> None:
    logits, labels = noisy(scale)
    values, rows = logits.double().numpy(), np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        return -log_softmax(values / np.exp(log_temperature), axis=1)[rows, labels].mean()

    expected = np.exp(minimize_scalar(loss, bracket=(np.log(scale) - 0.5, np.log(scale) + 0.5), options={"xtol": 1e-12}).x)
    assert fit_temperature(logits, labels) == pytest.approx(expected, rel=1e-6)
    assert fit_temperature(logits, labels) == pytest.approx(scale, rel=0.15)


def test_there_is_none_without_mistakes_or_by_chance() -> None:
    logits = torch.eye(3)
    with pytest.raises(ValueError, match="no mistake"):
        fit_temperature(logits, torch.arange(3))
    with pytest.raises(ValueError, match="no better than chance"):
        fit_temperature(logits, torch.tensor([1, 2, 0]))


def test_a_calibrated_run_predicts_tests_exports_and_resumes_with_its_temperature(
    zoo, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert zoo("train", "mlp", *OVERCONFIDENT, "--name", "sure").code == 0
    before = zoo_package.load("sure")
    tested, digits = before.test(), before.model.example_batch(8)["images"]
    former = before.model.predict_step({"images": digits})
    assert zoo("tune", "sure", "--calibrate", "--only", "lr").is_one_line_error("--calibrate takes a run alone", "--only")

    answer = zoo("tune", "sure", "--calibrate", "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    best, last = found["checkpoints"]
    assert (best["checkpoint"], last["checkpoint"]) == ("best", "last") and set(last["after"]) == {"val"}
    errors = [f"{best[when]['test']['calibration_error']:.4f}" for when in ("before", "after")]
    assert ("warning: the calibration error" in answer.err) == (errors[1] > errors[0])
    temperature = best["temperature"]
    assert temperature > 1 and best["after"]["val"]["loss"] < best["before"]["val"]["loss"]
    assert best["after"]["test"]["accuracy"] == best["before"]["test"]["accuracy"] == pytest.approx(tested["test/accuracy"])
    assert best["before"]["test"]["calibration_error"] == pytest.approx(tested["test/calibration_error"], abs=1e-6)

    after = zoo_package.load("sure")
    assert after.model.spec.temperature == temperature
    assert zoo_package.load("sure", checkpoint="last").model.spec.temperature == last["temperature"]
    assert torch.allclose(after.model.predict_step({"images": digits}), (former.log() / temperature).softmax(1), atol=1e-6)
    again = after.test()
    assert again["test/accuracy"] == tested["test/accuracy"]
    for name in ("loss", "calibration_error"):
        assert again[f"test/{name}"] == pytest.approx(best["after"]["test"][name], abs=1e-6)
    assert after.metrics["test/loss"] == pytest.approx(again["test/loss"], abs=1e-6)
    saved = read_checkpoint(Path("runs/sure/checkpoints/best.ckpt"))
    assert saved["hyper_parameters"]["spec"]["temperature"] == temperature
    assert type(after.model).load_from_checkpoint("runs/sure/checkpoints/best.ckpt").spec.temperature == temperature

    assert zoo("export", "sure", "--to", "safetensors").code == 0
    exported = zoo_package.load("sure.safetensors")
    assert torch.equal(exported.model.predict_step({"images": digits}), after.model.predict_step({"images": digits}))
    assert f"divided by {temperature:.6g}" in Path("sure.safetensors.md").read_text()
    assert zoo("tune", "sure.safetensors", "--calibrate").is_one_line_error("sure.safetensors is an exported file")

    assert zoo("train", "--resume", "sure").code == 0  # which is finished, and tested again
    assert zoo_package.load("sure").metrics["test/loss"] == pytest.approx(again["test/loss"], abs=1e-6)
    undone = zoo("tune", "sure", "--no-calibrate")
    assert undone.code == 0 and undone.out.endswith("next: zoo picture calibration sure\n")
    assert torch.equal(zoo_package.load("sure").model.predict_step({"images": digits}), former)
    assert zoo_package.load("sure").metrics["test/loss"] == pytest.approx(tested["test/loss"], abs=1e-6)

    monkeypatch.setattr(calibrating, "fit_temperature", lambda logits, labels: 50.0)
    worse = zoo("tune", "sure", "--calibrate")
    assert worse.code == 0 and "warning: the calibration error on the test images grew from 0.0" in worse.err
    assert "zoo tune sure --no-calibrate goes back" in worse.err
    assert "calibration error" not in zoo("tune", "sure", "--no-calibrate").err


def test_what_is_no_run_is_not_calibrated(zoo) -> None:
    assert zoo("tune", "nope", "--calibrate").is_one_line_error("no run 'nope'")
    assert zoo("tune", "efficientnet-lite0", "--calibrate").is_one_line_error("is a published network", "calibrate needs")


def test_logits_are_divided_in_every_metric_and_not_in_training() -> None:
    spec = zoo_package.ImageSpec(1, 2, 2, classes=("a", "b", "c"), temperature=2.5)
    task = zoo_package.create_model("softmax", spec).eval()
    torch.nn.init.normal_(task.linear.weight, generator=torch.Generator().manual_seed(0))
    batch = task.example_batch(16)
    logits = task.logits(batch).detach()
    assert torch.allclose(task.predict_step(batch), (logits / 2.5).softmax(1))
    task.evaluation_step("val", batch)
    assert task.compute_metrics("val")["loss"] == pytest.approx(float(F.cross_entropy(logits / 2.5, batch["labels"])), rel=1e-6)
    assert float(task.training_step(batch, 0).detach()) == pytest.approx(
        float(F.cross_entropy(logits, batch["labels"])), rel=1e-6
    )
