"""What is recorded of activations equals a direct computation in double precision, and nothing stays behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from everything import Everything, data, hooks_of, trainer
from torch import nn
from torch.nn import functional as F

from zoo.callbacks.activation_statistics import ActivationStatistics
from zoo.callbacks.distribution import Distribution, named_statistics

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
GATES = {f"lstm/{name}_l0" for name in ("input", "forget", "candidate", "output")}


class Outputs(L.Callback):
    """Keeps what layers give and are given, step by step, by hooks of its own."""

    def __init__(self) -> None:
        self.steps: list[dict[str, list[np.ndarray]]] = []
        self.inputs: list[dict[str, list[np.ndarray]]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name, module in pl_module.named_modules():
            module.register_forward_hook(lambda m, given, out, name=name: self.keep(name, given, out))

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        while len(self.steps) <= trainer.global_step:
            self.steps.append({}), self.inputs.append({})

    def keep(self, name: str, given: tuple[Any, ...], out: Any) -> None:
        out = out[0] if isinstance(out, tuple) else out
        self.steps[-1].setdefault(name, []).append(out.detach().double().numpy().copy())
        if given[:1] and given[0].is_floating_point():
            self.inputs[-1].setdefault(name, []).append(given[0].detach().double().numpy().copy())


def truncated(value: float) -> float:
    """The value without the lower 16 bits of its float32."""
    return float((np.float32(value).view(np.int32) & ~0xFFFF).view(np.float32))


def expected(values: np.ndarray) -> dict[str, Any]:
    values = np.sort(values.ravel())
    histogram = [0] * 65
    for value in values:
        if abs(value) < 2.0**-24:
            histogram[32] += 1
        else:
            place = min(31, int(np.floor(np.log2(abs(value)))) + 24)
            histogram[31 - place if value < 0 else 33 + place] += 1
    return {
        "mean": values.mean(), "std": values.std(), "min": values[0], "max": values[-1], "zero": (values == 0).mean(),
        "quantiles": [truncated(values[max(0, int(np.ceil(q * len(values) - 1e-9)) - 1)]) for q in QUANTILES],
        "histogram": histogram,
    }  # fmt: skip


def agree(record: dict[str, Any], values: np.ndarray) -> bool:
    right = expected(values)
    for key in ("mean", "std", "min", "max", "zero"):
        assert record[key] == pytest.approx(right[key], rel=1e-5, abs=1e-7), key
    assert record["quantiles"] == right["quantiles"] and record["histogram"] == right["histogram"]
    return True


def recorded(**options: Any) -> tuple[list[dict[str, Any]], Outputs, Everything]:
    torch.manual_seed(0)
    records: list[dict[str, Any]] = []
    seen, module = Outputs(), Everything(norm=True)
    trainer(seen, ActivationStatistics(every=3, write=records.append), **options).fit(module, data(64))
    return records, seen, module


@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_statistic_of_every_layer_equals_a_direct_computation(accumulate: int) -> None:
    records, seen, module = recorded(accumulate_grad_batches=accumulate)
    assert [record["step"] for record in records] == [step for step in (0, 1, 2, 3, 6, 7) if step < 8 // accumulate]
    leaves = {name for name, layer in module.named_modules() if name and not list(layer.children())} - {"attention.out_proj"}
    leaves.add("attention")
    for record in records:
        assert set(record["layers"]) == leaves | {"/tanh:8", "/relu:7"} | GATES
        for name in leaves:
            outputs = seen.steps[record["step"]][name]
            assert len(outputs) == accumulate and agree(record["layers"][name], np.concatenate(outputs))
        for name, axis in {"conv": 1, "head": -1}.items():
            values = np.moveaxis(np.concatenate(seen.steps[record["step"]][name]), axis, -1)
            signal = np.sqrt(values.var(tuple(range(values.ndim - 1))).mean())
            assert record["layers"][name]["signal"] == pytest.approx(signal, rel=1e-5)


def test_dead_saturated_and_rank_equal_their_definitions() -> None:
    records, seen, _ = recorded()
    for place, record in enumerate(records):
        outputs, inputs = seen.steps[record["step"]], seen.inputs[record["step"]]
        assert record["layers"]["sigmoid"]["saturated"] == pytest.approx((np.abs(outputs["sigmoid"][0] - 0.5) > 0.45).mean())
        window = [seen.steps[earlier["step"]]["gelu"][0].max(0) > 0 for earlier in records[: place + 1]]
        assert record["layers"]["gelu"]["dead"] == pytest.approx(1 - np.any(window, 0).mean())
        for name, rows in (("head", inputs["head"][0]), ("conv", inputs["conv"][0].mean((2, 3)))):
            covariance = np.cov(rows.T, bias=True)
            rank = np.trace(covariance) ** 2 / (covariance**2).sum()
            assert record["layers"][name]["rank"] == pytest.approx(rank, rel=1e-4)
        assert record["layers"]["conv"]["dead"] is None and record["layers"]["gelu"]["rank"] is None


def test_a_unit_that_is_never_above_zero_is_dead() -> None:
    class Half(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.relu = nn.Linear(4, 10), nn.ReLU()
            with torch.no_grad():
                self.layer.bias[:4] = -100

        def training_step(self, batch, batch_idx):
            return self.relu(self.layer(batch[0])).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.0)

    records: list[dict[str, Any]] = []
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(400, 4)), 200)
    trainer(ActivationStatistics(write=records.append)).fit(Half(), batches)
    assert records[-1]["layers"]["relu"]["dead"] == pytest.approx(0.4)


def test_a_module_in_several_places_is_told_apart_by_its_units() -> None:
    class Shared(Everything):
        def forward(self, images, words):
            found = self.relu(self.conv(images)).mean((2, 3))
            return self.relu(self.head(F.pad(found, (0, 1))))

    records: list[dict[str, Any]] = []
    trainer(ActivationStatistics(write=records.append), max_steps=1).fit(Shared(), data())
    assert sum(records[0]["layers"]["relu"]["histogram"]) == 8 * 6 * 64
    assert sum(records[0]["layers"]["relu:4"]["histogram"]) == 8 * 4


def test_a_small_deviation_far_from_zero_is_exact_over_many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.callbacks.distribution.PART", 1000)
    values = 1e4 + 0.1 * torch.randn(3, 2345, generator=torch.Generator().manual_seed(0))
    values[0, :7] = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1.0, -1.0, 0.0])
    found = Distribution(torch.device("cpu"))
    found.add(values[0]), found.add(values[1:, None])
    told = named_statistics(Distribution.statistics([found])[0].tolist())
    right = values.double().numpy()
    assert told["mean"] == pytest.approx(right.mean(), rel=1e-9) and told["std"] == pytest.approx(right.std(), rel=1e-6)
    assert told["zero"] * right.size == pytest.approx(3)
    found = Distribution(torch.device("cpu"))
    found.add(values[1:])
    told = named_statistics(Distribution.statistics([found])[0].tolist())
    assert told["std"] == pytest.approx(right[1:].std(), rel=1e-5)


def test_activations_that_have_exploded_are_measured_still() -> None:
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0)) * 1e33
    found = Distribution(torch.device("cpu"))
    found.add(values)
    told = named_statistics(Distribution.statistics([found])[0].tolist())
    assert told["std"] == pytest.approx(values.double().std(correction=0).item(), rel=1e-5)


def test_numbers_that_are_none_are_counted_at_the_ends() -> None:
    found = Distribution(torch.device("cpu"))
    found.add(torch.tensor([1.0, float("inf"), float("-inf"), float("nan")]))
    told = named_statistics(Distribution.statistics([found])[0].tolist())
    assert sum(told["histogram"]) == 4 and told["histogram"][0] >= 1 and np.isnan(told["mean"])


PROGRAM = """
import json, os, sys
import torch
from everything import Everything, data, trainer
from zoo.callbacks.activation_statistics import ActivationStatistics
from zoo.callbacks.gradient_monitor import GradientMonitor
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import fully_shard

class Sharded(Everything):
    def configure_model(self):
        for part in (self.conv, self.joined, self.head, self):
            fully_shard(part, mesh=self.device_mesh["data_parallel"])

class Uneven(Everything):
    def forward(self, images, words):
        torch.relu(images[:, :, 0, : 3 + self.global_rank])
        return super().forward(images, words)

records = []
how, processes = sys.argv[1], 1 if sys.argv[1] == "alone" else 2
torch.manual_seed(0)
monitors = [kind(every=2, write=records.append) for kind in (ActivationStatistics, GradientMonitor)]
strategies = {"alone": "auto", "ddp": "ddp", "sharded": ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)}
t = trainer(*monitors, max_steps=4, use_distributed_sampler=False, devices=processes, strategy=strategies[how])
own = list(range(int(os.environ.get("LOCAL_RANK", 0)), 64, processes))
t.fit({"alone": Everything, "ddp": Uneven, "sharded": Sharded}[how](), data(64, 8 // processes, own))
if t.is_global_zero:
    print(json.dumps(records))
"""


def recorded_by(how: str, folder: Path) -> list[dict[str, Any]]:
    """Records of a training that is alone, or of two processes, each with the whole network or with a part of each parameter."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'tests' / 'callbacks'}"}
    program = folder / "program.py"
    program.write_text(PROGRAM)
    return json.loads(subprocess.run([sys.executable, program, how], capture_output=True, env=environment, check=True).stdout)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return recorded_by("alone", tmp_path_factory.mktemp("alone"))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "sharded"])
def test_two_processes_record_what_one_does_on_the_whole_batch(alone: list[dict[str, Any]], how: str, tmp_path: Path) -> None:
    one, two = alone, recorded_by(how, tmp_path)
    assert [(r["kind"], r["step"]) for r in one] == [(r["kind"], r["step"]) for r in two] and len(one) == 8
    for single, together in zip(one, two, strict=True):
        if single["kind"] == "activations":
            assert set(single["layers"]) == set(together["layers"]), "without what runs in one process alone"
            for name, layer in single["layers"].items():
                other = together["layers"][name]
                for key in ("mean", "std", "signal", "min", "max", "rank", "dead", "saturated"):
                    known = layer[key] is not None
                    assert other[key] == (pytest.approx(layer[key], rel=2e-3, abs=1e-5) if known else None)
                assert sum(other["histogram"]) == sum(layer["histogram"]), "as many values"
        else:
            assert together["norm"] == pytest.approx(single["norm"], rel=1e-4)
            for name, parameter in single["parameters"].items():
                for key in ("norm", "weight_norm", "update_ratio", "cosine"):
                    known = parameter[key] is not None
                    approximate = pytest.approx(parameter[key], rel=1e-3, abs=1e-5) if known else None
                    assert together["parameters"][name][key] == approximate
                assert sum(together["parameters"][name]["histogram"]) == sum(parameter["histogram"])


# ---------------------------------------------------------------------------------------------- nothing stays


class Stops(L.Callback):
    """Fails in a step, as a fault in somebody's code or a user's interrupt would."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_before_backward(self, *_: Any) -> None:
        raise self.error


@pytest.mark.parametrize("error", [None, RuntimeError("no"), KeyboardInterrupt()], ids=["run", "exception", "interrupt"])
def test_no_hook_is_left(error: BaseException | None) -> None:
    module = Everything()
    before = hooks_of(module)
    callbacks = [Stops(error)] if error else []
    try:
        trainer(*callbacks, ActivationStatistics(write=lambda record: None), max_steps=3).fit(module, data())
    except (RuntimeError, KeyboardInterrupt, SystemExit):
        assert error is not None
    assert hooks_of(module) == before and not torch.overrides._get_current_function_mode_stack()


def test_a_fault_inside_the_network_leaves_no_hook_either() -> None:
    class Failing(Everything):
        def forward(self, *given):
            super().forward(*given)
            raise ValueError("no")

    module = Failing()
    with pytest.raises(ValueError, match="no"):
        trainer(ActivationStatistics(write=lambda record: None)).fit(module, data())
    assert hooks_of(module) == 0 and not torch.overrides._get_current_function_mode_stack()


def test_hooks_exist_on_recorded_steps_only() -> None:
    counts = []

    class Counting(Everything):
        def training_step(self, batch, batch_idx):
            counts.append(hooks_of(self) > 0)
            return super().training_step(batch, batch_idx)

    trainer(ActivationStatistics(every=4, write=lambda record: None)).fit(Counting(), data(80))
    assert counts == [step in (0, 1, 2, 4, 8, 9) for step in range(10)]


def test_layers_are_chosen_by_glob_and_numbers_go_to_any_logger(tmp_path: Path) -> None:
    sent: list[dict[str, float]] = []

    class Keeping(L.pytorch.loggers.CSVLogger):
        def log_metrics(self, metrics, step=None):
            sent.append(metrics)

    trainer(ActivationStatistics(layers=("conv", "h*")), logger=Keeping(tmp_path), max_steps=1).fit(Everything(), data())
    numbers = next(metrics for metrics in sent if any(key.startswith("activations/") for key in metrics))
    assert {key.split("/")[1] for key in numbers if key.count("/") == 2} == {"conv", "head"}
    assert "activations/conv/std" in numbers and "activations/seconds" in numbers


def test_training_is_the_same_with_and_without() -> None:
    weights = []
    for callbacks in ([], [ActivationStatistics(every=1, write=lambda record: None)]):
        torch.manual_seed(0)
        module = Everything(norm=True)
        trainer(*callbacks).fit(module, data())
        weights.append(module.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_modules_that_are_compiled_are_recorded() -> None:
    records: list[dict[str, Any]] = []
    module = Everything()
    module.compile(backend="eager")
    module.conv.compile(backend="eager")
    trainer(ActivationStatistics(write=records.append), max_steps=2).fit(module, data())
    assert "conv" in records[1]["layers"] and module._compiled_call_impl is not None
