"""A monitor ends no training: what it cannot measure is named once, and the rest is measured."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import lightning as L
import pytest
import torch
import torch.optim.optimizer as optimizers
from everything import data, hooks_of, trainer
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.callbacks.activation_statistics import ActivationStatistics
from zoo.callbacks.diagnosis import Diagnosis
from zoo.callbacks.gradient_monitor import GradientMonitor


@dataclass
class Output:
    values: Tensor


class Returning(nn.Module):
    """A layer of parameters that returns whatever a function makes of its input."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make, self.scale = make, nn.Parameter(torch.ones(()))

    def forward(self, inputs: Tensor) -> Any:
        return self.make(self.scale * inputs)


NAMED = {
    "nothing": lambda x: (),
    "none": lambda x: None,
    "number": lambda x: 3,
    "dataclass": Output,
    "sparse": lambda x: x.to_sparse(),
    "compressed": lambda x: x.to_sparse_csr(),
    "nested": lambda x: torch.nested.nested_tensor([x.detach()[0], x.detach()[1, :2]]),
    "meta": lambda x: x.to("meta"),
    "complex": lambda x: x.to(torch.complex64),
}
SILENT = {"scalar": torch.sum, "empty": lambda x: x[:0], "integers": lambda x: x.long(), "booleans": lambda x: x > 0}
MEASURED = {"tuple": lambda x: ((x, None), 3), "dict": lambda x: {"logits": x}, "brain_float": lambda x: x.bfloat16()}


class Unusual(L.LightningModule):
    """Runs every such layer, and learns by a linear one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({name: Returning(make) for name, make in {**NAMED, **SILENT, **MEASURED}.items()})
        self.unused, self.empty = nn.Linear(3, 3), nn.Parameter(torch.zeros(0, 3))
        self.head = nn.Linear(8, 4)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        rows = batch[0].mean((1, 2))
        for layer in self.layers.values():
            layer(rows)
        with torch.inference_mode():
            self.head(rows)
        mapped = torch.func.vmap(lambda row: torch.relu(2 * row))(rows)
        return F.cross_entropy(self.head(mapped), batch[2]) + self.empty.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(module: L.LightningModule, *callbacks: L.Callback, **options: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """Train with all monitors: their records, and what they warned of."""
    records: list[dict[str, Any]] = []
    monitors = [kind(every=1, write=records.append) for kind in (ActivationStatistics, GradientMonitor)]
    diagnosis = Diagnosis(classes=4, write=lambda record: None, verbose=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(*monitors, diagnosis, *callbacks, **options).fit(module, data())
    return records, [str(each.message) for each in caught if " leaves out " in str(each.message)]


def test_what_cannot_be_measured_is_named_once() -> None:
    records, said = fit(Unusual(), max_epochs=2)
    assert [record["step"] for record in records if record["kind"] == "activations"] == list(range(8))
    for name in NAMED:
        (line,) = [line for line in said if f"leaves out layers.{name}: " in line]
        assert line.startswith("ActivationStatistics leaves out layers."), line
    assert not [line for line in said if any(f"layers.{name}:" in line for name in (*SILENT, *MEASURED))]
    layers = {name for record in records if record["kind"] == "activations" for name in record["layers"]}
    assert {name for name in layers if name.startswith("layers.")} == {f"layers.{name}" for name in MEASURED}
    assert sum(records[0]["layers"]["head"]["histogram"]) == 2 * 8 * 4, "with and without gradients"
    assert "head" in layers and all(line.count("\n") == 0 for line in said)
    gradients = [record for record in records if record["kind"] == "gradients"]
    assert len(gradients) == 8 and gradients[-1]["parameters"]["head.weight"]["norm"] > 0


def test_pictures_of_two_sizes_without_a_batch_are_one_step() -> None:
    class Sizes(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.head = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Linear(6, 4)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            picture = batch[0][0][:, : 5 + batch_idx % 2]
            return F.cross_entropy(self.head(self.relu(self.conv(picture)).mean((1, 2))), batch[2][0])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    records, said = fit(Sizes(), accumulate_grad_batches=2)
    layers = records[-2]["layers"]
    assert not said and set(layers) == {"conv", "relu", "head"}
    assert sum(layers["conv"]["histogram"]) == sum(layers["relu"]["histogram"]) == 6 * (3 + 4) * 6
    assert layers["conv"]["signal"] > 0 and layers["head"]["rank"] == pytest.approx(1.0), "two samples lie on a line"


def test_a_fault_of_a_monitor_itself_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Tensor:
        raise RuntimeError("no\nmore")

    monkeypatch.setattr("zoo.callbacks.gradient_monitor.histogram", broken)
    monkeypatch.setattr("zoo.callbacks.activation_statistics.Distribution.statistics", broken)
    records, said = fit(Unusual())
    assert not records
    assert [line for line in said if "RuntimeError: no" in line] == [
        "GradientMonitor leaves out gradients: RuntimeError: no",
        "ActivationStatistics leaves out activations: RuntimeError: no",
    ]


class ByHand(Unusual):
    """Steps its optimizer by hand, and returns what it likes."""

    def __init__(self, behind: bool) -> None:
        super().__init__()
        self.automatic_optimization, self.behind, self.hooks = False, behind, []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.hooks.append(hooks_of(self))
        optimizer = self.optimizers(use_pl_optimizer=not self.behind)
        optimizer.zero_grad()
        logits = self.head(batch[0].mean((1, 2)))
        self.manual_backward(F.cross_entropy(logits, batch[2]))
        optimizer.step()
        return logits


def test_an_optimizer_stepped_behind_the_back_of_the_trainer_leaves_no_hooks() -> None:
    module = ByHand(behind=True)
    records, said = fit(module)
    assert module.hooks[0] > 0 and not any(module.hooks[1:]) and not hooks_of(module)
    assert not optimizers._global_optimizer_post_hooks
    (line,) = [line for line in said if "later steps" in line]
    assert "without the Trainer" in line
    assert [record["step"] for record in records] == [0]
    module = ByHand(behind=False)
    records, said = fit(module)
    assert all(module.hooks) and not hooks_of(module) and not said
    assert [record["step"] for record in records if record["kind"] == "activations"] == [0, 1, 2, 3]


def test_an_optimizer_that_evaluates_the_loss_again_gives_one_record_a_step() -> None:
    class Quasi(Unusual):
        evaluations = 0

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            self.evaluations += 1
            return F.cross_entropy(self.head(batch[0].mean((1, 2))), batch[2])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.LBFGS(self.head.parameters(), 0.1)

    module = Quasi()
    records, _ = fit(module)
    for kind in ("activations", "gradients"):
        assert [record["step"] for record in records if record["kind"] == kind] == [0, 1, 2, 3]
    assert module.evaluations > 8 and sum(records[0]["layers"]["head"]["histogram"]) == 8 * 4


def test_an_exception_that_a_module_catches_does_not_misplace_what_follows() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Returning(lambda x: x.no_such_attribute)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.inner(torch.sigmoid(inputs))

    class Catches(Unusual):
        def __init__(self) -> None:
            super().__init__()
            self.fails = Fails()

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            rows = batch[0].mean((1, 2))
            try:
                self.fails(rows)
            except AttributeError:
                rows = torch.relu(rows)
            return F.cross_entropy(self.head(rows), batch[2])

    records, _ = fit(Catches(), max_steps=1)
    assert set(records[0]["layers"]) == {"fails/sigmoid:8", "/relu:8", "head"}


class OneLayer(L.LightningModule):
    """Learns by a linear layer, with any optimizer, batches and network."""

    def __init__(self, optimizer: Any = torch.optim.SGD, network: nn.Module | None = None, **options: Any) -> None:
        super().__init__()
        self.optimizer, self.options = optimizer, options
        self.network = nn.Linear(8, 4) if network is None else network

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.network(torch.ones(2, 8)).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters(), **self.options)


class WithoutRate(torch.optim.Optimizer):
    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> Any:
        return closure()


def test_an_optimizer_need_not_have_a_learning_rate() -> None:
    records, said = fit(OneLayer(WithoutRate))
    assert not said and {record["kind"] for record in records} == {"activations", "gradients"}


def test_the_square_of_an_absurd_weight_decay_does_not_end_the_records() -> None:
    records, said = fit(OneLayer(torch.optim.AdamW, lr=0.1, weight_decay=1e200))
    gradients = [record for record in records if record["kind"] == "gradients"]
    assert not said and len(gradients) == 4


@pytest.mark.parametrize("classes", [0, 1])
def test_less_than_two_classes_have_no_chance_level(classes: int) -> None:
    diagnosis = Diagnosis(classes=classes, verbose=False)
    trainer(GradientMonitor(every=1), diagnosis, max_epochs=4).fit(OneLayer(lr=0.0), data())
    assert not {finding.name for finding in diagnosis.findings} & {"initial-loss", "not-learning"}


def test_without_a_number_of_samples_there_is_no_noise_scale() -> None:
    records: list[dict[str, Any]] = []
    batches = torch.utils.data.DataLoader([0] * 4, collate_fn=lambda items: Output(torch.ones(1)))
    trainer(GradientMonitor(every=1, write=records.append)).fit(OneLayer(lr=0.01), batches)
    assert len(records) == 4 and not [record for record in records if record["noise_scale"] is not None]


def test_where_nothing_is_selected_or_called_that_is_said() -> None:
    def trained(network: nn.Module, pattern: str) -> list[str]:
        monitors = [
            kind(every=1, layers=(pattern,), write=lambda record: None) for kind in (ActivationStatistics, GradientMonitor)
        ]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer(*monitors).fit(OneLayer(lr=0.01, network=network), data())
        return [str(each.message).partition(":")[0] for each in caught if " leaves out all " in str(each.message)]

    layers, parameters = "ActivationStatistics leaves out all layers", "GradientMonitor leaves out all parameters"
    assert sorted(trained(nn.Linear(8, 4), "typo*")) == [layers, parameters]
    assert not trained(nn.Linear(8, 4), "network*")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(nn.Sequential(nn.Linear(8, 4)), torch.ones(2, 8))
    assert trained(traced, "*") == [layers]
