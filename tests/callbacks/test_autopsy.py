"""Numbers that stop being finite: the layer and the operation are named, and the file that is left goes wrong the same way."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from zoo.callbacks.autopsy import FILE, NonFinite, NonFiniteAutopsy, replay_file
from zoo.callbacks.replay import Anomaly

STEPS = 6


class Spoils(nn.Module):
    """Passes numbers on, until it is told to do something else with them."""

    def __init__(self) -> None:
        super().__init__()
        self.how = ""

    def forward(self, x: Tensor) -> Tensor:
        match self.how:
            case "nan":
                return x * float("nan")
            case "log":
                return (x - x.amin()).log()
            case "division":
                return (x - x) / (x - x)
            case "overflow":
                return (x.abs() * 0 + 200).exp()
            case "root":  # finite, but its slope is not
                return x + (x * 0).sqrt()
            case "masked":  # harmless: what is not finite is not chosen, and has no gradient
                bad = (x.detach() - x.detach()).log()
                return torch.where(torch.ones_like(x, dtype=torch.bool), x, bad)
        return x


class Tower(L.LightningModule):
    """Layers ``0`` to ``3``, each of which can be told to spoil its result at a step; with all that makes replaying hard."""

    def __init__(self, layer: int = 0, step: int = 0, how: str = "", optimizer: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.ReLU(inplace=True), nn.Dropout(0.3), Spoils()) for _ in range(4)
        )
        self.plan, self.make = (layer, step, how), optimizer or (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9))

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        torch.manual_seed(batch_idx)  # as a module may that is to be resumed exactly
        layer, step, how = self.plan
        if batch_idx + 1 == step:
            self.spoil(layer, how)

    def spoil(self, layer: int, how: str) -> None:
        if how == "weight":
            with torch.no_grad():
                self.layers[layer][0].weight[1, 2] = torch.inf
        else:
            self.layers[layer][4].how = how

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        x = batch
        for layer in self.layers:
            x = layer(x)
        self.log("loss", x.square().mean())
        return x.square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make(self.parameters())


def data(spoilt: tuple[int, int] | None = None) -> DataLoader:
    samples = torch.randn(STEPS * 4, 5, generator=torch.Generator().manual_seed(1))
    if spoilt:
        samples[spoilt[0] * 4 + spoilt[1], 3] = torch.nan
    return DataLoader(samples, batch_size=4)


def trainer(folder: Path, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        max_epochs=1, default_root_dir=folder, callbacks=list(callbacks), **options,
    )  # fmt: skip


def hooks(module: nn.Module) -> int:
    kept = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_forward_hooks_always_called")
    return sum(len(getattr(each, name)) for each in module.modules() for name in kept)


def autopsy(
    module: Tower, folder: Path, batches: Any = None, deferred: bool | None = None, **options: Any
) -> tuple[Anomaly, str]:
    """What a training of the module ends with; its file must find the same."""
    found: list[Anomaly] = []

    def error(text: str, anomaly: Anomaly | None) -> Exception:
        found.append(anomaly)
        return NonFinite(text)

    with pytest.raises(NonFinite) as raised:
        trainer(folder, NonFiniteAutopsy(error=error, deferred=deferred), **options).fit(module, batches or data())
    assert hooks(module) == 0
    assert "\n" not in str(raised.value)
    content = torch.load(folder / FILE, weights_only=True)
    again = Tower()
    if module.plan[1]:
        again.spoil(module.plan[0], module.plan[2]) if module.plan[2] != "weight" else None
    assert replay_file(content, again) == found[0] and found[0] is not None
    assert content["anomaly"] == asdict(found[0])
    return found[0], str(raised.value)


@pytest.mark.parametrize("layer", range(4))
@pytest.mark.parametrize(
    ("how", "operation", "phase"),
    [
        ("nan", "mul", "forward"),
        ("log", "log", "forward"),
        ("division", "div", "forward"),
        ("overflow", "exp", "forward"),
        ("root", "div", "backward"),
    ],
)
def test_the_layer_and_the_operation_are_named(tmp_path: Path, layer: int, how: str, operation: str, phase: str) -> None:
    anomaly, text = autopsy(Tower(layer, 3, how), tmp_path)
    assert (anomaly.module, anomaly.module_type) == (f"layers.{layer}.4", "Spoils")
    assert (anomaly.kind, anomaly.name, anomaly.phase) == ("operation", operation, phase)
    assert "at step 3" in text and f"layers.{layer}.4 (Spoils)" in text
    assert anomaly.output["nan"] + anomaly.output["inf"] > 0 and anomaly.output["shape"] == [4, 5]
    assert not any(each.get("nan") or each.get("inf") for each in anomaly.inputs)
    if phase == "backward":
        assert anomaly.node == "SqrtBackward0" and anomaly.what.startswith("the gradient of layers.")


@pytest.mark.parametrize("layer", range(4))
def test_a_weight_that_is_not_finite_is_named(tmp_path: Path, layer: int) -> None:
    anomaly, text = autopsy(Tower(layer, 2, "weight"), tmp_path)
    assert (anomaly.kind, anomaly.name) == ("parameter", f"layers.{layer}.0.weight")
    assert anomaly.output["inf"] == 1 and "contained 1 inf before the step" in text


def test_one_bad_number_in_one_sample_is_the_batchs_fault(tmp_path: Path) -> None:
    anomaly, text = autopsy(Tower(), tmp_path, data(spoilt=(4, 2)))
    assert (anomaly.kind, anomaly.samples, anomaly.output["nan"]) == ("batch", [2], 1)
    assert "at step 5" in text and "of sample 2" in text


def test_what_is_not_finite_and_harms_nobody_is_passed_over(tmp_path: Path) -> None:
    class Masked(Tower):
        def spoil(self, layer: int, how: str) -> None:
            self.layers[0][4].how = "masked"
            super().spoil(layer, how)

    anomaly, _ = autopsy(Masked(2, 3, "log"), tmp_path)
    assert anomaly.module == "layers.2.4"
    trainer(tmp_path, NonFiniteAutopsy()).fit(Masked(0, 1, "masked"), data())


# ---------------------------------------------------------------------------------------------- how it is trained


@pytest.mark.parametrize("how", ["log", "root"])
@pytest.mark.parametrize("step", [1, 4, STEPS])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_looked_at_a_step_later_the_weights_are_still_those_of_the_bad_step(
    tmp_path: Path, how: str, step: int, optimizer: type
) -> None:
    fused = lambda parameters: optimizer(parameters, 0.1, fused=True)  # noqa: E731
    anomaly, text = autopsy(Tower(1, step, how, fused), tmp_path, deferred=True, log_every_n_steps=100)
    assert anomaly.module == "layers.1.4" and f"at step {step}:" in text
    late = torch.load(tmp_path / FILE, weights_only=True)
    autopsy(Tower(1, step, how, fused), tmp_path, deferred=False)
    at_once = torch.load(tmp_path / FILE, weights_only=True)
    for name in dict(Tower().named_parameters()):
        assert torch.equal(late["state_dict"][name], at_once["state_dict"][name]), name
    weight = "layers.3.1.weight"
    assert torch.equal(late["state_dict"][weight], Tower().state_dict()[weight]) == (step == 1)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("step", [3, 4])
def test_of_accumulated_batches_the_bad_one_is_told(tmp_path: Path, late: bool, step: int) -> None:
    class Once(Tower):  # only this batch goes wrong, the next is sound again
        def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
            super().on_train_batch_start(batch, batch_idx)
            if batch_idx + 1 > self.plan[1]:
                self.layers[self.plan[0]][4].how = ""

    fused = lambda parameters: torch.optim.SGD(parameters, 0.1, fused=True)  # noqa: E731
    anomaly, text = autopsy(Once(2, step, "log", fused), tmp_path, deferred=late, accumulate_grad_batches=2)
    assert anomaly.module == "layers.2.4" and "at step 2:" in text
    content = torch.load(tmp_path / FILE, weights_only=True)
    assert content["batch_idx"] == step - 1 and torch.equal(content["batch"], list(data())[step - 1])


def test_half_precision_is_repeated_in_half_precision(tmp_path: Path) -> None:
    class Large(Tower):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            x = self.layers[0][0](batch)
            large = torch.tensor(3.4e38 if batch_idx == 1 else 1.0).to(x.dtype)  # beyond what bfloat16 can hold
            return (x * 0 + large)[0, 0].float() * 1e-38

    with pytest.raises(NonFinite):
        trainer(tmp_path, NonFiniteAutopsy(), precision="bf16-mixed").fit(Large(), data())
    content = torch.load(tmp_path / FILE, weights_only=True)
    anomaly = replay_file(content, Large())
    assert asdict(anomaly) == content["anomaly"] and content["precision"] == "bf16-mixed"
    assert (anomaly.name, anomaly.inputs[0]["dtype"], anomaly.output["dtype"]) == ("_to_copy", "float32", "bfloat16")
    assert replay_file({**content, "precision": "32-true"}, Large()) is None


class Overflows(Tower):
    """In half precision a gradient overflows as long as the scale is large; no loss does."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) * 100


def scaled() -> list[MixedPrecision]:
    return [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**100))]


def test_an_overflow_that_the_scaler_leaves_out_is_none_of_its_business(tmp_path: Path) -> None:
    plugins = scaled()
    trainer(tmp_path, NonFiniteAutopsy(), plugins=plugins).fit(Overflows(), data())
    assert plugins[0].scaler.get_scale() < 2.0**100, "steps were left out"
    assert not (tmp_path / FILE).exists()
    with pytest.raises(NonFinite, match="at step 4: log in layers.3.4"):
        trainer(tmp_path, NonFiniteAutopsy(), plugins=scaled()).fit(Tower(3, 4, "log"), data())


def test_a_norm_that_overflows_though_no_gradient_does_is_no_reason_to_stop(tmp_path: Path) -> None:
    class Steep(Tower):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) * 1e30

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 1e-35)

    trainer(tmp_path, NonFiniteAutopsy()).fit(Steep(), data())


def test_gradients_that_are_sparse_complex_or_have_a_graph_are_looked_at_too(tmp_path: Path) -> None:
    class Odd(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(9, 2, sparse=True)
            self.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            x = self.words(torch.tensor([1, batch_idx])) * self.phase
            return x.abs().sum() if batch_idx < 2 else (x * 0).abs().sqrt().sum()

        def backward(self, loss: Tensor) -> None:
            loss.backward(create_graph=True)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    with pytest.raises(NonFinite, match="at step 3: [a-z]+ in the backward pass of Sqrt in Odd.training_step"):
        trainer(tmp_path, NonFiniteAutopsy()).fit(Odd(), data())


class Carries(Tower):
    """Keeps what it found in a step for the next one."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.memory = None

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        former = torch.ones(4, 5) if self.memory is None else self.memory[0]
        y = self.layers[0](batch)
        self.memory = (former * 2,)
        return (y * former).mean() if batch_idx != 2 else (y / (former - 4)).mean()


def test_what_is_carried_from_step_to_step_is_put_back(tmp_path: Path) -> None:
    with pytest.raises(NonFinite, match=r"at step 3: div in Carries.training_step"):
        trainer(tmp_path, NonFiniteAutopsy()).fit(Carries(), data())
    content = torch.load(tmp_path / FILE, weights_only=True)
    assert torch.equal(content["state"]["memory"][0], torch.full((4, 5), 4.0))
    assert asdict(replay_file(content, Carries())) == content["anomaly"]


def test_a_module_that_optimizes_by_hand_is_stopped_too(tmp_path: Path) -> None:
    class ByHand(Tower):
        automatic_optimization = False

        def training_step(self, batch: Tensor, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    module = ByHand(1, 3, "log")
    with pytest.raises(NonFinite, match="at step 3: not located, because of manual optimization"):
        trainer(tmp_path, NonFiniteAutopsy()).fit(module, data())
    assert all(parameter.isfinite().all() for parameter in module.parameters())


# ---------------------------------------------------------------------------------------------- what it leaves alone


def state(module: Tower) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("late", [False, True])
def test_a_training_is_the_same_with_it_bit_for_bit(tmp_path: Path, late: bool) -> None:
    fused = lambda parameters: torch.optim.AdamW(parameters, 0.01, fused=True)  # noqa: E731
    ends = []
    for callbacks in ([], [NonFiniteAutopsy(deferred=late)]):
        module = Tower(optimizer=fused)
        fit = trainer(tmp_path, *callbacks, gradient_clip_val=0.5)
        fit.fit(module, data())
        ends.append((state(module), torch.get_rng_state(), fit.optimizers[0].state_dict()))
        assert not hasattr(fit.optimizers[0], "found_inf")
    assert all(torch.equal(ends[0][0][name], ends[1][0][name]) for name in ends[0][0])
    assert torch.equal(ends[0][1], ends[1][1])
    for first, second in zip(*(end[2]["state"].values() for end in ends), strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("exception", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("late", [False, True])
def test_an_exception_or_an_interrupt_leaves_nothing_behind(tmp_path: Path, exception: type, late: bool) -> None:
    class Failing(Tower):
        def on_train_batch_end(self, *_: Any) -> None:
            if self.trainer.global_step == 3:
                raise exception

    module = Failing(optimizer=lambda parameters: torch.optim.SGD(parameters, 0.1, fused=True))
    callback = NonFiniteAutopsy(deferred=late)
    fit = trainer(tmp_path, callback)
    with pytest.raises((exception, SystemExit)):
        fit.fit(module, data())
    assert hooks(module) == 0 and not hasattr(fit.optimizers[0], "found_inf")
    assert callback.step is None and not callback.flags and callback.pending is None


def test_a_module_that_cannot_be_copied_is_stopped_all_the_same(tmp_path: Path) -> None:
    class Uncopied(Tower):
        def __deepcopy__(self, memo: dict) -> None:
            raise TypeError("no")

    with pytest.raises(NonFinite, match="at step 2: not located, as the replay failed: TypeError: no"):
        trainer(tmp_path, NonFiniteAutopsy()).fit(Uncopied(0, 2, "nan"), data())


def test_a_batch_that_is_no_plain_data_is_told_of(tmp_path: Path) -> None:
    class Batch:
        def __init__(self, values: Tensor) -> None:
            self.values = values

    class Takes(Tower):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            return super().training_step(batch.values, batch_idx)

    batches = DataLoader(torch.randn(24, 5), 4, collate_fn=lambda samples: Batch(torch.stack(samples)))
    with pytest.raises(
        NonFinite, match="at step 3: log in layers.1.4 .*could not be written: a batch of Batch is not plain data"
    ):
        trainer(tmp_path, NonFiniteAutopsy()).fit(Takes(1, 3, "log"), batches)


def test_a_fault_that_a_buffer_brings_about_is_found_again(tmp_path: Path) -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.seen += 1
            return (x - x).log() if self.seen == 4 else x

    class Counting(Tower):
        def __init__(self) -> None:
            super().__init__()
            self.layers[2][4] = Counts()

    with pytest.raises(NonFinite, match=r"log in layers.2.4 \(Counts\)"):
        trainer(tmp_path, NonFiniteAutopsy()).fit(Counting(), data())
    content = torch.load(tmp_path / FILE, weights_only=True)
    assert content["state_dict"]["layers.2.4.seen"] == 3
    assert replay_file(content, Counting()).module == "layers.2.4"
