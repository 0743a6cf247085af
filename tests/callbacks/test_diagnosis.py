"""Faults that are planted are named, each in a training of its own, and a training without any is told of nothing."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from everything import hooks_of, trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from zoo.callbacks.activation_statistics import ActivationStatistics
from zoo.callbacks.diagnosis import Diagnosis
from zoo.callbacks.findings import Finding, check_activations, check_gradients, check_losses, check_throughput
from zoo.callbacks.gradient_monitor import GradientMonitor


class Learner(L.LightningModule):
    """A network with cross-entropy, SGD and nothing else."""

    def __init__(self, network: nn.Module, lr: float = 0.1) -> None:
        super().__init__()
        self.network, self.lr = network, lr

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.lr)


def mlp(activation: type[nn.Module] = nn.ReLU, depth: int = 3, width: int = 32) -> nn.Sequential:
    sizes = [10] + [width] * depth
    layers = [part for a, b in zip(sizes, sizes[1:], strict=False) for part in (nn.Linear(a, b), activation())]
    network = nn.Sequential(*layers, nn.Linear(width, 4))
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    nn.init.normal_(network[-1].weight, std=0.01)
    return network


def samples(n: int = 512, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points around four corners."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (n,), generator=generator)
    centers = torch.randn(4, 10, generator=torch.Generator().manual_seed(99))
    return centers[labels] + 0.5 * torch.randn(n, 10, generator=generator), labels


def examine(
    module: L.LightningModule, inputs: Tensor | None = None, labels: Tensor | None = None, **options: Any
) -> list[Finding]:
    known, right = samples()
    inputs, labels = known if inputs is None else inputs, right if labels is None else labels
    batches = DataLoader(TensorDataset(inputs, labels), options.pop("batch_size", 32))
    val = DataLoader(TensorDataset(*samples(256, 1)), 64)
    diagnosis = Diagnosis(classes=4)
    monitors = [kind(every=5) for kind in (ActivationStatistics, GradientMonitor)]
    options = {"max_epochs": 4, "num_sanity_val_steps": 0, **options}
    trainer(*monitors, diagnosis, **options).fit(module, batches, val)
    return diagnosis.findings


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


NETWORKS = {"relu": mlp, "gelu": lambda: mlp(nn.GELU), "tanh": lambda: mlp(nn.Tanh, 2), "wide": lambda: mlp(width=200)}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_a_network_that_is_trained_well_is_told_of_nothing(network) -> None:
    assert not examine(Learner(network()))


def names(findings: list[Finding]) -> set[str]:
    return {finding.name for finding in findings}


def test_weights_that_are_too_small_at_the_start() -> None:
    network = mlp(depth=6)
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.005)
    assert "vanishing-activations" in names(examine(Learner(network)))


def test_a_signal_that_is_lost_under_biases() -> None:
    """torch's own initialization keeps biases of one size, so outputs deviate still when nothing of the input is left."""
    layers = [part for _ in range(12) for part in (nn.Linear(10, 10), nn.ReLU())]
    found = examine(Learner(nn.Sequential(*layers, nn.Linear(10, 4))))
    lost = next(finding for finding in found if finding.name == "vanishing-activations")
    assert lost.where not in ("network.0", "network.2") and "standard deviation of its outputs" in lost.evidence


def test_what_a_normalization_undoes_is_neither_vanishing_nor_exploding() -> None:
    def layer(kind: str, signal: float) -> dict[str, object]:
        return {"type": kind, "signal": signal, "input": None, "dead": None, "zero": 0.0, "saturated": None}

    convs = {f"{place}.conv": layer("Conv2d", scale) for place, scale in enumerate((1e3, 1e-3, 1e5, 1e-5))}
    norms = {f"{place}.norm": layer("BatchNorm2d", 1.0) for place in range(4)}
    rows = {name: row for pair in zip(convs.items(), norms.items(), strict=True) for name, row in pair}
    head = {"head": layer("Linear", 0.1)}
    assert not list(check_activations([{"step": 0, "layers": {**rows, **head}}]))
    found = {finding.name for finding in check_activations([{"step": 0, "layers": {**convs, **head}}])}
    assert found == {"vanishing-activations"}


def test_a_layer_that_is_given_the_same_for_all_samples_loses_nothing() -> None:
    layers = {f"layer{place}": {"type": "Linear", "signal": signal} for place, signal in enumerate((1.0, 0.0, 0.5, 0.0))}
    assert not list(check_activations([{"layers": layers}]))
    layers["layer2"]["signal"] = 1e-5
    assert [finding.where for finding in check_activations([{"layers": layers}])] == ["layer1"]


def test_weights_that_are_too_large_at_the_start() -> None:
    network = mlp(depth=6)
    for layer in network[:-1]:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=2.0)
    found = names(examine(Learner(network, 1e-9)))
    assert "exploding-activations" in found


def test_a_head_that_is_sure_from_the_start() -> None:
    network = mlp()
    nn.init.normal_(network[-1].weight, std=5.0)
    assert "initial-loss" in names(examine(Learner(network, 0.001)))


def test_units_that_a_huge_rate_has_killed() -> None:
    found = examine(Learner(mlp(), 30.0))
    assert {"dead-units", "learning-rate-too-high"} & names(found) and "dead-units" in names(found)


def test_a_stack_of_sigmoids() -> None:
    network = mlp(nn.Sigmoid, depth=8)
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.1)
    found = names(examine(Learner(network)))
    assert {"vanishing-gradients", "vanishing-activations"} & found


def test_sigmoids_at_their_ends() -> None:
    network = mlp(nn.Sigmoid, depth=2)
    nn.init.normal_(network[0].weight, std=20.0)
    assert "saturated-activations" in names(examine(Learner(network, 0.01)))


def test_labels_that_were_shuffled() -> None:
    inputs, labels = samples(128)
    labels = labels[torch.randperm(128)]
    found = examine(Learner(mlp(width=256, depth=2), 0.3), inputs, labels, max_epochs=60)
    assert "memorized-labels" in names(found)


def test_a_layer_that_is_frozen_by_mistake() -> None:
    network = mlp()
    network[2].requires_grad_(False)
    found = examine(Learner(network))
    assert next(finding for finding in found if finding.name == "frozen-parameters").where == "network.2.weight"


def test_a_layer_that_is_cut_off() -> None:
    class Detached(Learner):
        def forward(self, inputs):
            return self.network[2:](self.network[:2](inputs).detach())

    found = examine(Detached(mlp()))
    assert next(finding for finding in found if finding.name == "no-gradient").where == "network.0.weight"


def test_a_rate_that_is_far_too_low() -> None:
    assert "learning-rate-too-low" in names(examine(Learner(mlp(), 1e-7)))


def test_an_input_that_never_changes() -> None:
    assert "constant-input" in names(examine(Learner(mlp()), torch.ones(512, 10)))


def test_pixels_that_are_not_normalized() -> None:
    inputs, _ = samples()
    assert "input-not-normalized" in names(examine(Learner(mlp(), 1e-5), 127 + 60 * inputs))


def test_a_step_that_forgets_to_clear_gradients() -> None:
    class Forgetting(Learner):
        def optimizer_zero_grad(self, *_):
            pass

    assert "gradients-not-zeroed" in names(examine(Forgetting(mlp(), 0.001)))


def test_a_recurrent_network_that_explodes() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.RNN(1, 32, nonlinearity="relu", batch_first=True), nn.Linear(32, 4)
            with torch.no_grad():
                self.cell.weight_hh_l0.copy_(3.0 * torch.linalg.qr(torch.randn(32, 32))[0])

        def forward(self, inputs):
            return self.head(self.cell(inputs[..., None].repeat(1, 5, 1))[0][:, -1])

    assert {"exploding-gradients", "initial-loss"} <= names(examine(Learner(Recurrent(), 1e-6)))
    assert "exploding-gradients" not in names(examine(Learner(Recurrent(), 1e-6), gradient_clip_val=1.0)), "as was advised"


def test_batch_norm_on_tiny_batches() -> None:
    network = nn.Sequential(nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    assert "small-batch-norm" in names(examine(Learner(network, 0.01), batch_size=4, max_epochs=1))


def test_what_losses_and_waiting_say() -> None:
    assert {f.name for f in check_losses([1.39, 1.38, 1.385], [], None, 4, 300, 7)} == {"not-learning"}
    assert not list(check_losses([1.39, 1.38, 1.385], [], None, 4, 30, 7)), "it has hardly begun"
    falling, rising = [0.9, 0.8, 0.7, 0.6, 0.5, 0.3, 0.1], [0.6, 0.7, 0.8, 0.7, 0.7, 0.9, 0.8]
    assert {f.name for f in check_losses(falling, rising, 0.3, 4, 700, 7)} == {"overfitting"}
    assert not list(check_losses(falling, [0.6, 0.7, 0.8, 0.7, 0.7, 0.9, 0.5], 0.3, 4, 700, 7)), "it has just got better"
    assert not list(check_losses(falling, rising, 0.05, 4, 700, 7))
    assert {f.name for f in check_throughput([{"data_loading": 0.6}] * 3)} == {"slow-data-loading"}
    assert not list(check_throughput([{"data_loading": 0.6}, {"data_loading": 0.1}, {"data_loading": 0.6}]))


def test_a_warmup_and_the_end_of_a_schedule_say_nothing_of_the_rate() -> None:
    layer = {"norm": 1.0, "weight_norm": 1.0, "update_ratio": 1e-8, "histogram": [4]}
    records = [{"step": step, "norm": 1.0, "without": [], "parameters": {"a.weight": layer}} for step in (16, 32, 64)]
    assert not list(check_gradients(records, [1e-6, 2e-6, 4e-6]))
    assert not list(check_gradients(records, [1e-3, 1e-3, 1e-3, 3e-4, 2e-4, 1e-4]))
    assert {finding.name for finding in check_gradients(records, [1e-9, 1e-9, 1e-9])} == {"learning-rate-too-low"}


def test_accuracy_above_chance_is_learning_whatever_the_loss() -> None:
    losses = [2.9, 2.95, 2.92]
    assert {f.name for f in check_losses(losses, [], None, 10, 300, 3, train_accuracy=0.11)} == {"not-learning"}
    assert not list(check_losses(losses, [], None, 10, 300, 3, train_accuracy=0.4))
    assert {f.name for f in check_losses([0.69] * 3, [], None, 2, 300, 3, train_accuracy=0.52)} == {"not-learning"}
    assert not list(check_losses([0.7] * 3, [], None, 2, 300, 3, train_accuracy=0.58))


def test_validation_above_chance_is_no_matter_of_labels_and_while_it_improves_no_overfitting() -> None:
    falling, rising = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [1.4, 1.5, 1.5, 1.6, 1.6, 1.7, 1.8]

    def found(accuracies: list[float], gap: float | None = None) -> set[str]:
        return names(list(check_losses(falling, rising, gap, 5, 700, 7, 0.9, accuracies)))

    assert found([]) == found([0.21] * 7, 0.69) == {"memorized-labels"}
    assert found([0.45] * 7, 0.45) == {"overfitting"}
    assert not found([0.40, 0.41, 0.42, 0.43, 0.44, 0.45, 0.46], 0.44)


def test_a_finding_that_the_losses_contradict_is_withdrawn_and_may_come_back() -> None:
    written: list[dict[str, Any]] = []
    diagnosis = Diagnosis(classes=4, write=written.append, verbose=False)
    fit = trainer(diagnosis)
    chance, learned = [[1.39] * 3, [1.39, 1.39, 0.5]]
    for losses in (chance, chance, learned, learned, chance):
        found = list(check_losses(losses, [], None, 4, 300, 3))
        diagnosis._report(fit, found)
        diagnosis._withdraw(fit, found)
        assert bool(diagnosis.standing) == (losses is chance) == (diagnosis.most_severe is not None)
    assert [record["kind"] for record in written] == ["finding", "withdrawal", "finding"]
    assert len({(record["name"], record["where"]) for record in written}) == len(diagnosis.findings) == 1


def test_a_finding_that_no_longer_holds_is_said_of_its_time() -> None:
    diagnosis = Diagnosis(write=lambda record: None, verbose=False)
    fit, relu = trainer(), {"type": "ReLU", "mean": 1.0, "std": 1.0, "zero": 0.5, "saturated": None}
    for step, dead in enumerate([0.9, 0.9, 0.9, 0.9, 0.1]):
        layers = {"first": {**relu, "dead": dead}, "second": {**relu, "dead": 0.99}}
        diagnosis.on_record(fit, {"kind": "activations", "step": 10 * step, "epoch": 0, "layers": layers})
    first, second = diagnosis.standing
    assert first.evidence.endswith(" (from step 20 to 30)") and "step" not in second.evidence
    assert first.where == "first" and first.one_line.startswith("warning: dead-units in first: 90% of its units")


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_a_decay_that_is_larger_than_the_gradient(kind: str) -> None:
    class Decaying(Learner):
        decay = 0.5

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return getattr(torch.optim, kind)(self.parameters(), 0.01, weight_decay=self.decay)

    found = examine(Decaying(mlp(width=64)), max_epochs=8)
    assert found[0].name == "weight-decay-too-high" and "times the gradient" in found[0].evidence
    assert not names(found) & {"not-learning", "vanishing-activations", "learning-rate-too-high", "memorized-labels"}
    sound = Decaying(mlp(width=64))
    sound.decay = 5e-4
    assert not examine(sound)


@pytest.mark.parametrize(("decay", "is_ruin"), [(1.0, False), (100.0, True)])
def test_a_decoupled_decay_is_judged_by_whether_the_network_still_learns(decay: float, is_ruin: bool) -> None:
    class Decaying(Learner):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), 0.003, weight_decay=decay)

    module = Decaying(mlp(width=64))
    found = examine(module, max_epochs=8)
    inputs, labels = samples(256, 1)
    accuracy = float((module(inputs).argmax(1) == labels).float().mean())
    assert ("weight-decay-too-high" in names(found)) == is_ruin == (accuracy < 0.6), (found, accuracy)


def test_a_finding_is_told_once_with_evidence_cause_and_remedy() -> None:
    records: list[dict[str, Any]] = []
    diagnosis = Diagnosis(classes=4, write=records.append, verbose=False)
    layer = {"type": "ReLU", "mean": 1.0, "std": 1.0, "zero": 0.95, "dead": 0.9, "saturated": None}
    for step in range(6):
        diagnosis.on_record(trainer(), {"kind": "activations", "step": step, "epoch": 0, "layers": {"relu": layer}})
    (finding,) = diagnosis.findings
    assert diagnosis.most_severe is finding and "90%" in str(finding) and "Try: " in str(finding)
    (told,) = [record for record in records if record["kind"] == "finding"]
    assert told["name"] == "dead-units" and told["where"] == "relu" and told["step"] == 2 and told["try"]


# ---------------------------------------------------------------------------------------------- what is odd, and right


def test_an_input_is_what_the_first_layer_is_given() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(1, 16, batch_first=True), nn.Linear(16, 4)

        def forward(self, inputs):
            return self.head(5 + self.cell(inputs[..., None])[0][:, -1])

    inputs, _ = samples()
    assert "input-not-normalized" not in names(examine(Learner(Recurrent())))
    found = examine(Learner(Recurrent()), 128 + 50 * inputs)
    assert next(finding for finding in found if finding.name == "input-not-normalized").where == "network.cell"
    assert "constant-input" in names(examine(Learner(Recurrent()), torch.ones(512, 10)))
    assert "input-not-normalized" not in names(examine(Learner(nn.Sequential(nn.BatchNorm1d(10), mlp())), 128 + 50 * inputs))


def test_a_batch_of_one_is_not_constant() -> None:
    assert "constant-input" not in names(examine(Learner(mlp()), batch_size=1, limit_train_batches=8))


def test_a_part_that_no_optimizer_has() -> None:
    class Probe(Learner):
        def configure_optimizers(self):
            return torch.optim.SGD(self.network[-1].parameters(), 0.1)

    found = {finding.name: finding for finding in examine(Probe(mlp()))}
    assert found["not-optimized"].where == "network.0.weight" and "gradients-not-zeroed" not in found


def test_two_optimizers_by_hand() -> None:
    class Adversaries(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.a, self.b = nn.Linear(10, 4), nn.Sequential(nn.Linear(10, 4), nn.BatchNorm1d(4))

        def training_step(self, batch, batch_idx):
            for optimizer, network in zip(self.optimizers(), (self.a, self.b), strict=True):
                optimizer.zero_grad()
                self.manual_backward(F.cross_entropy(network(batch[0]), batch[1]))
                optimizer.step()

        def configure_optimizers(self):
            return [torch.optim.SGD(part.parameters(), 0.1) for part in (self.a, self.b)]

    module = Adversaries()
    assert not names(examine(module)) and not hooks_of(module)


def test_what_is_unusual_ends_no_training() -> None:
    class Unusual(Learner):
        def __init__(self) -> None:
            super().__init__(mlp())
            self.words = nn.Embedding(4, 3, sparse=True)
            self.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))
            self.norm = nn.BatchNorm1d(10)

        def training_step(self, batch, batch_idx):
            if self.current_epoch == 1:
                return None
            self.network[0](batch[0][:0])
            loss = super().training_step([self.norm(input=batch[0]), batch[1]], batch_idx)
            return loss + self.words(batch[1]).square().mean() + self.phase.abs().square().mean()

    class Fixed(Learner):
        def configure_optimizers(self):
            return None

    assert not {finding.name for finding in examine(Unusual()) if finding.severity == "error"}
    examine(Fixed(mlp()))


def test_a_record_that_waits_is_told_when_the_training_breaks() -> None:
    class Breaks(Learner):
        def training_step(self, batch, batch_idx):
            if batch_idx == 1:
                raise ValueError("no")
            return 1e9 * super().training_step(batch, batch_idx)

    diagnosis = Diagnosis(classes=4)
    with pytest.raises(ValueError, match="no"):
        trainer(GradientMonitor(), diagnosis).fit(Breaks(mlp()), DataLoader(TensorDataset(*samples()), 32))
    assert "exploding-gradients" in names(diagnosis.findings)


def test_gradients_that_are_tiny_at_first_and_grow_are_not_vanishing() -> None:
    """As in residual branches whose last norm starts at zero."""

    def records(shares: list[float]) -> list[dict[str, Any]]:
        def parameter(norm: float) -> dict[str, Any]:
            return {"norm": norm, "weight_norm": 1.0, "update_ratio": 1e-3, "histogram": [1]}

        parameters = [{"first.weight": parameter(1.0), "branch.weight": parameter(share)} for share in shares]
        return [{"step": 2**n, "norm": 1.0, "parameters": each} for n, each in enumerate(parameters)]

    assert not list(check_gradients(records([1e-6, 2e-6, 5e-6]), [0.1] * 3))
    assert names(list(check_gradients(records([1e-6, 1e-6, 1e-6]), [0.1] * 3))) == {"vanishing-gradients"}
