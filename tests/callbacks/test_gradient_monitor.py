"""What is recorded of gradients equals a direct computation in double precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from everything import Everything, data, trainer
from lightning.pytorch.plugins import MixedPrecision

from zoo.callbacks.gradient_monitor import GradientMonitor


class Gradients(L.Callback):
    """Keeps gradients as the optimizer is given them, before clipping, and the weights before and after each step."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, np.ndarray]] = []
        self.weights: list[dict[str, np.ndarray]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.keep_weights(pl_module)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        named = pl_module.named_parameters()
        self.gradients.append({name: p.grad.double().numpy().copy() for name, p in named if p.grad is not None})

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == len(self.weights):
            self.keep_weights(pl_module)

    def keep_weights(self, module: L.LightningModule) -> None:
        self.weights.append({name: p.detach().double().numpy().copy() for name, p in module.named_parameters()})


def recorded(every: int = 3, **options: Any) -> tuple[list[dict[str, Any]], Gradients]:
    torch.manual_seed(0)
    records: list[dict[str, Any]] = []
    seen = Gradients()
    trainer(seen, GradientMonitor(every=every, write=records.append), **options).fit(Everything(), data(80))
    return records, seen


def flat(gradients: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([value.ravel() for value in gradients.values()])


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.5}], ids=str)
def test_every_figure_equals_a_direct_computation(options: dict[str, Any]) -> None:
    records, seen = recorded(**options)
    samples = 8 * options.get("accumulate_grad_batches", 1)
    squares = products = 0.0
    for place, record in enumerate(records):
        step = record["step"]
        gradients = seen.gradients[step]
        assert set(record["parameters"]) == set(gradients)
        for name, told in record["parameters"].items():
            gradient, before, after = gradients[name], seen.weights[step][name], seen.weights[step + 1][name]
            assert told["norm"] == pytest.approx(np.linalg.norm(gradient), rel=1e-5, abs=1e-9)
            assert told["weight_norm"] == pytest.approx(np.linalg.norm(before), rel=1e-5)
            if np.linalg.norm(before) > 0:
                assert told["update_ratio"] == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before), rel=1e-3)
            assert sum(told["histogram"]) == gradient.size
            assert told["zero"] == pytest.approx((gradient == 0).mean())
            if place:
                former = seen.gradients[records[place - 1]["step"]][name]
                size = np.linalg.norm(former) * np.linalg.norm(gradient)
                if size > 1e-12:
                    assert told["cosine"] == pytest.approx((former * gradient).sum() / size, abs=1e-5)
            else:
                assert told["cosine"] is None
        whole = flat(gradients)
        assert record["norm"] == pytest.approx(np.linalg.norm(whole), rel=1e-5)
        if "gradient_clip_val" in options:
            norms = [np.linalg.norm(flat(seen.gradients[r["step"]])) for r in records[: place + 1]]
            assert record["clipped"] == pytest.approx(np.mean([norm > 0.5 for norm in norms]))
        else:
            assert record["clipped"] is None
        if step + 1 < len(seen.gradients):
            squares = 0.9 * squares + 0.1 * (whole @ whole)
            products = 0.9 * products + 0.1 * (whole @ flat(seen.gradients[step + 1]))
            scale = max(0.0, samples * (squares - products) / products) if products > 0 else None
            assert record["noise_scale"] == (None if scale is None else pytest.approx(scale, rel=1e-4))


def test_the_noise_scale_of_known_noise_is_found() -> None:
    """Gradients that are a fixed vector G plus noise of covariance S on every sample: tr(S) / |G|^2."""

    class Noisy(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(50))

        def training_step(self, batch, batch_idx):
            return (batch[0] @ self.weight).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 1e-6)

    torch.manual_seed(0)
    rows = 1.0 + 3.0 * torch.randn(64 * 400, 50)
    records: list[dict[str, Any]] = []
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows), 64)
    trainer(GradientMonitor(every=2, write=records.append)).fit(Noisy(), batches)
    assert np.mean([record["noise_scale"] for record in records[-101:-1]]) == pytest.approx(9.0, rel=0.1)


@pytest.mark.parametrize(("kind", "coupled"), [("SGD", True), ("Adam", True), ("RMSprop", True), ("AdamW", False)])
def test_the_decay_is_measured_against_the_gradient_as_the_optimizer_applies_it(kind: str, coupled: bool) -> None:
    class Decayed(Everything):
        decay = 0.3

        def configure_optimizers(self) -> torch.optim.Optimizer:
            weights, biases = ([p for p in self.parameters() if (p.dim() > 1) is wide] for wide in (True, False))
            groups = [{"params": weights, "weight_decay": self.decay}, {"params": biases, "weight_decay": 0.0}]
            return getattr(torch.optim, kind)(groups, lr=1e-3)

    def train(decay: float) -> tuple[list[dict[str, Any]], Gradients]:
        records: list[dict[str, Any]] = []
        seen, module = Gradients(), Decayed()
        module.decay = decay
        module.load_state_dict(start)
        trainer(seen, GradientMonitor(every=1, write=records.append), max_steps=2).fit(module, data())
        return records, seen

    torch.manual_seed(0)
    start = Decayed().state_dict()
    (records, seen), (bare, without) = train(0.3), train(0.0)
    wide = [name for name, weight in seen.weights[0].items() if weight.ndim > 1]
    before = flat({name: seen.weights[0][name] for name in wide})
    if coupled:
        by_gradient, decay = flat({name: seen.gradients[0][name] for name in wide}), 0.3 * before
    else:  # the steps with and without differ by the decay alone
        by_gradient = flat({name: without.weights[1][name] for name in wide}) - before
        decay = flat({name: seen.weights[1][name] - without.weights[1][name] for name in wide})
    right = np.linalg.norm(decay) / np.linalg.norm(by_gradient)
    assert records[0]["decay"] == pytest.approx(right, rel=1e-2) and bare[0]["decay"] is None


def test_only_recorded_steps_are_looked_at_and_parameters_are_chosen_by_glob() -> None:
    records: list[dict[str, Any]] = []
    trainer(GradientMonitor(every=4, layers=("*.weight",), write=records.append)).fit(Everything(), data(80))
    assert [record["step"] for record in records] == [0, 1, 2, 4, 8, 9]
    assert all(name.endswith(".weight") for record in records for name in record["parameters"])


def test_training_is_the_same_with_and_without() -> None:
    weights = []
    for callbacks in ([], [GradientMonitor(every=1, write=lambda record: None)]):
        torch.manual_seed(0)
        module = Everything()
        trainer(*callbacks, gradient_clip_val=0.1).fit(module, data())
        weights.append(module.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_gradients_of_mixed_precision_are_told_without_its_factor() -> None:
    """float16 multiplies the loss by 65,536; what is recorded is the gradient of the loss itself."""

    class Convolution(Everything):
        def forward(self, images, words):
            return self.conv(images).mean((2, 3))

    half = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=65536.0))
    norms = []
    for options in ({}, {"plugins": [half]}):
        records: list[dict[str, Any]] = []
        torch.manual_seed(0)
        trainer(GradientMonitor(write=records.append), max_steps=1, **options).fit(Convolution(), data())
        norms.append(records[0]["norm"])
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start", "on_train_batch_start"])
def test_a_resumed_training_that_ends_before_its_first_step_records_nothing(tmp_path: Path, hook: str) -> None:
    """Else its error would be replaced, or the record would be written twice."""

    class Saving(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step == 2:
                trainer.save_checkpoint(tmp_path / "two.ckpt")

    def stop(*_: Any) -> None:
        raise KeyError("stopped")

    records: list[dict[str, Any]] = []
    trainer(GradientMonitor(every=1, write=records.append), Saving()).fit(Everything(), data(80))
    former, records[:] = list(records), []
    stopping = L.Callback()
    setattr(stopping, hook, stop)
    with pytest.raises(KeyError, match="stopped"):
        trainer(GradientMonitor(every=1, write=records.append), stopping).fit(
            Everything(), data(80), ckpt_path=tmp_path / "two.ckpt", weights_only=True
        )
    assert former[1]["step"] == 1 and not records
