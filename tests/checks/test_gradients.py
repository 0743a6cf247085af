"""The gradient check passes every model of the zoo, and no wrong gradient, whether there are kinks or not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.checks.gradients import Base, check_gradients, compare_gradients
from zoo.config.resolution import resolve
from zoo.config.run import Run
from zoo.core.errors import UserError
from zoo.registry.registry import scan
from zoo.training.building import build_task, open_data

REGISTRY = scan()


def run_of(name: str) -> Run:
    return resolve(REGISTRY, name, {}, [{"model": REGISTRY.model(name).tiny}])


# entries that differ only in depth have the same tiny variant: one of each is enough
DISTINCT = {repr((e.class_name, {**e.defaults, **e.tiny})): name for name, e in REGISTRY.models.items()}


SMALL = {"softmax", "mlp", "convnet", "rnn", "lstm", "char-lstm", "char-transformer", "resnet20"}


@pytest.mark.parametrize(
    "name", [name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in sorted(DISTINCT.values())]
)
def test_every_gradient_of_every_model_is_right_to_a_millionth(name: str) -> None:
    entry = REGISTRY.model(name)
    # the wide ones cost most: their batch norm needs four samples where images have shrunk to one pixel, convolutions alone two
    wide = "imagenet" in entry.tags
    samples, points = (2 if "residual" not in entry.tags else 4, 1) if wide else (4, 2)
    results = list(check_gradients(REGISTRY, entry, samples, points))
    assert not [result for result in results if not result.passed]
    with torch.device("meta"):
        parameters = build_task(REGISTRY, run_of(name), open_data(REGISTRY, run_of(name)).spec).named_parameters()
    assert [(result.name, result.shape) for result in results] == [(key, tuple(value.shape)) for key, value in parameters]


def test_a_third_partys_gradients_are_right(plugin: Path) -> None:
    registry = scan()
    results = list(check_gradients(registry, registry.model("squeezenet"), 2, 1))
    assert len(results) == 52 and all(result.passed for result in results)


class Scaled(torch.autograd.Function):
    """The identity, whose backward is off by a relative error."""

    @staticmethod
    def forward(context, values: Tensor, error: float) -> Tensor:
        context.error = error
        return values.clone()

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * (1 + context.error), None


class Partly(torch.autograd.Function):
    """The identity, whose backward forgets one value in ten."""

    @staticmethod
    def forward(context, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        gradient.view(-1)[::10] = 0
        return gradient


class Network(nn.Module):
    """Two layers of which the gradient of the first passes through ``fault``."""

    def __init__(self, activation: nn.Module, fault=lambda values: values, inputs: int = 20, width: int = 30) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.activation, self.second = nn.Linear(inputs, width), activation, nn.Linear(width, 5)
        self.fault = fault
        self.double()

    def loss(self, seed: int = 0, samples: int = 8) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(samples, self.first.in_features, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, 5, (samples,), generator=generator)
        hidden = F.linear(images, self.fault(self.first.weight), self.first.bias)
        return F.cross_entropy(self.second(self.activation(hidden)), labels)

    def compare(self, samples: int = 8, points: int = 2):
        losses = [lambda seed=seed: self.loss(seed, samples) for seed in range(3)]
        return {result.name: result for result in compare_gradients(losses, dict(self.named_parameters()), points)}


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.SiLU(), nn.ReLU(), nn.LeakyReLU(), nn.Hardtanh(), nn.Softshrink()])
@pytest.mark.parametrize("error", [0, 1e-5, -1e-4, 1e-2, 1, -1, -2])
def test_a_gradient_passes_only_if_it_is_right(activation: nn.Module, error: float) -> None:
    network = Network(activation, lambda values: Scaled.apply(values, error))
    results = network.compare()
    assert results["first.weight"].passed is (error == 0)
    assert results["first.weight"].compared == 4
    # of two numbers the relative error is of the larger
    expected = abs(error) / max(1, abs(1 + error))
    assert results["first.weight"].error == pytest.approx(expected, rel=1e-2, abs=1e-7)
    assert all(results[name].passed for name in ("first.bias", "second.weight", "second.bias"))


@pytest.mark.parametrize("fault", [Partly.apply, torch.Tensor.detach, lambda values: Scaled.apply(values, math.nan)])
def test_a_gradient_that_is_lost_in_part_or_all_or_no_number_fails(fault) -> None:
    result = Network(nn.ReLU(), fault).compare()["first.weight"]
    assert not result.passed and result.error > 0.01
    json.loads(json.dumps(result.to_dict()), parse_constant=pytest.fail)


class Sawtooth(nn.Module):
    """Slopes of 1 and -1 in turn, which change at every ``period`` / 2."""

    period = 5e-5

    def forward(self, values: Tensor) -> Tensor:
        return (values / self.period - (values / self.period).round()).abs() * self.period


@pytest.mark.parametrize("error", [0, 1e-4, 0.5])
def test_a_wrong_gradient_cannot_hide_among_kinks(error: float) -> None:
    result = Network(Sawtooth(), lambda values: Scaled.apply(values, error)).compare(samples=40)["first.weight"]
    assert result.passed is (error == 0) and result.compared == 4
    assert result.kinks > 4  # most differences cross one


def test_where_there_are_only_kinks_nothing_passes() -> None:
    weight = nn.Parameter(torch.zeros(5, dtype=torch.float64))  # at the kink itself
    (result,) = compare_gradients([lambda: weight.abs().sum() + 1] * 2, {"weight": weight})
    assert (result.passed, result.compared, result.error) == (False, 0, math.inf) and result.kinks > 0
    assert result.to_dict()["error"] is None


def test_another_batch_is_asked_where_one_sits_at_a_kink() -> None:
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    losses = [lambda: (weight - 1).abs().sum() + weight.sum(), lambda: weight.square().sum()]
    (result,) = compare_gradients(losses, {"weight": weight}, points=1)
    assert result.passed and result.compared == 2 and result.kinks > 0


@pytest.mark.parametrize("kink", [1e-3, 0.1, 0.25, 2 / 7, 0.3, 1 / 3, 0.45, 0.5, 0.6, 0.9])
@pytest.mark.parametrize("side", [-1, 1])
def test_a_kink_upsets_the_estimates_by_six_sevenths_of_what_it_does_to_the_result(kink: float, side: int) -> None:
    weight, step = nn.Parameter(torch.zeros(1, dtype=torch.float64)), 1e-3

    def loss() -> Tensor:
        return weight.exp().sum() + 0.01 * (side * weight / step - kink).relu().sum() * step

    numeric, disagreement = Base(loss, {"weight": weight}).derivative("weight", torch.ones(1, dtype=torch.float64), step)
    error = abs(numeric - 1)
    assert error > 1e-5 and disagreement >= 6 / 7 * error * 0.999


def test_the_derivative_of_a_smooth_loss_is_exact_to_fourth_order() -> None:
    weight = nn.Parameter(torch.tensor([0.7], dtype=torch.float64))
    base = Base(lambda: weight.sin().sum(), {"weight": weight})
    errors = [abs(base.derivative("weight", torch.ones_like(weight), step)[0] - math.cos(0.7)) for step in (0.2, 0.1)]
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.02)
    assert weight.item() == 0.7


def test_gradients_that_vanish_are_compared_up_to_rounding() -> None:
    torch.manual_seed(0)
    layer, norm = nn.Linear(6, 7).double(), nn.BatchNorm1d(7, affine=False).double()
    images = torch.randn(9, 6, dtype=torch.float64)
    direction = torch.randn(9, 7, dtype=torch.float64)
    # batch norm takes away the mean, and the bias with it
    results = list(compare_gradients([lambda: (norm(layer(images)) * direction).sum()], dict(layer.named_parameters())))
    assert all(result.passed and result.compared == 4 for result in results)
    assert results[0].gradient > 0.1 and results[1].gradient < 1e-12


def test_parameters_are_put_back_to_the_bit() -> None:
    network = Network(nn.ReLU())
    before = [parameter.detach().clone() for parameter in network.parameters()]
    network.compare()
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_a_loss_in_single_precision_is_refused() -> None:
    weight = nn.Parameter(torch.ones(2, dtype=torch.float64))
    with pytest.raises(UserError, match="float32"):
        list(compare_gradients([lambda: weight.float().sum()], {"weight": weight}))
    with pytest.raises(UserError, match="nan"):
        list(compare_gradients([lambda: (weight * math.nan).sum()], {"weight": weight}))


# ---------------------------------------------------------------------------------------------- the command

PLUGIN = '''
import torch
from torch import nn
from zoo import register_model
from zoo.tasks.classification import Classifier

class Wrong(torch.autograd.Function):
    @staticmethod
    def forward(context, values):
        return values * 2
    @staticmethod
    def backward(context, gradient):
        return gradient * (2 + FAULT)

@register_model("NAME", task="classification", data="digits")
class Mine(Classifier):
    """Dropout, norms, a buffer that counts, and a backward of its own."""
    def __init__(self, spec, recipe, empty: bool = EMPTY):
        super().__init__(spec, recipe)
        self.linear = nn.utils.parametrizations.spectral_norm(nn.Linear(64, 12)) if not empty else nn.Identity()
        self.rest = nn.Sequential(nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.5)) if not empty else nn.Identity()
        self.head = nn.Linear(12, len(spec.classes)) if not empty else nn.Identity()
        self.register_buffer("calls", torch.zeros(()))
    def forward(self, images):
        self.calls += 1  # a network that is another at every call, unless what it keeps is put back
        return self.head(self.rest(Wrong.apply(self.linear(images.flatten(1))))) / self.calls
    def stages(self):
        return {"body": nn.ModuleList([self.linear, self.rest]), "head": self.head}
'''


def plugin_file(folder: Path, name: str, fault: float = 0, empty: bool = False) -> Path:
    path = folder / f"{name.replace('-', '_')}.py"
    path.write_text(PLUGIN.replace("FAULT", str(fault)).replace("NAME", name).replace("EMPTY", str(empty)))
    return path


def test_the_command_passes_a_right_gradient_with_dropout_and_buffers(zoo, tmp_path: Path) -> None:
    answer = zoo("--plugin", plugin_file(tmp_path, "right-gradient"), "check", "right-gradient", "--gradients")
    assert answer.code == 0, answer.out
    assert "ok    head.weight 10x12: error " in answer.out and "6 of 6 gradients agree" in answer.out


def test_the_command_finds_a_wrong_gradient_and_exits_with_one(zoo, tmp_path: Path) -> None:
    path = plugin_file(tmp_path, "wrong-gradient", fault=2e-4)
    answer = zoo("--plugin", path, "check", "wrong-gradient", "--gradients")
    assert answer.code == 1 and "FAIL  linear.parametrizations.weight.original 12x64: error 1.0e-04" in answer.out
    answer = zoo("--plugin", path, "check", "wrong-gradient", "--gradients", "--json")
    passed = {result["name"]: result["passed"] for result in json.loads(answer.out)}
    assert answer.code == 1 and passed["head.weight"] and not passed["linear.parametrizations.weight.original"]


def test_a_model_without_parameters_has_nothing_to_check(zoo, tmp_path: Path) -> None:
    path = plugin_file(tmp_path, "no-parameters", empty=True)
    answer = zoo("--plugin", path, "check", "no-parameters", "--gradients")
    assert answer.code == 0 and answer.out == "no-parameters has no parameters to check\n"
    assert json.loads(zoo("--plugin", path, "check", "no-parameters", "--gradients", "--json").out) == []


def test_mistakes_are_one_line(zoo) -> None:
    assert zoo("check", "digits", "--gradients").is_one_line_error("digits", "data set", "--gradients")
    assert zoo("check", "resnt20", "--gradients").is_one_line_error("'resnt20'", "'resnet20'")
