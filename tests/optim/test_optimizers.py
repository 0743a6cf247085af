"""Optimizers held against the textbook's update rules in numpy, double precision, and against torch's own classes."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.optim.optimizers import build_optimizer, require_fitting
from zoo.optim.parameter_groups import decay_groups, scaled_lr
from zoo.registry.registry import scan
from zoo.training.saving import require_fitting_state

LR, DECAY, STEPS = 0.05, 0.1, 7
CURVATURE = np.array([[0.5, 2.0, 1.0], [3.0, 0.1, 0.7]])
START = np.array([[1.0, -2.0, 0.3], [0.0, 4.0, -1.5]])


def gradient(weights: np.ndarray, step: int) -> np.ndarray:
    """Of a parabola whose floor moves with the step."""
    return CURVATURE[: weights.shape[0]] * (weights - 0.1 * step)


# Each rule: (weights, its own gradient, state, step from 1, the optimizer's arguments) -> (new weights, new state)


def sgd(w, g, state, step, args):
    """Sutskever et al. 2013, in the form that keeps the learning rate out of the velocity."""
    velocity = args["momentum"] * state.get("velocity", 0) + g
    direction = g + args["momentum"] * velocity if args["nesterov"] and args["momentum"] else velocity
    return w - LR * direction, {"velocity": velocity}


def rmsprop(w, g, state, step, args):
    """Tieleman and Hinton 2012; forgetting 0.99 and epsilon 1e-8 are torch's."""
    square = 0.99 * state.get("square", 0) + 0.01 * g**2
    velocity = args["momentum"] * state.get("velocity", 0) + g / (np.sqrt(square) + 1e-8)
    return w - LR * velocity, {"square": square, "velocity": velocity}


def adam(w, g, state, step, args):
    """Kingma and Ba 2014, algorithm 1."""
    beta1, beta2 = args["betas"]
    mean = beta1 * state.get("mean", 0) + (1 - beta1) * g
    square = beta2 * state.get("square", 0) + (1 - beta2) * g**2
    unbiased_mean, unbiased_square = mean / (1 - beta1**step), square / (1 - beta2**step)
    return w - LR * unbiased_mean / (np.sqrt(unbiased_square) + 1e-8), {"mean": mean, "square": square}


RULES = {"sgd": sgd, "rmsprop": rmsprop, "adam": adam, "adamw": adam}


def by_the_book(start: np.ndarray, recipe: Recipe, decay: float) -> np.ndarray:
    w, state = start.copy(), {}
    args = scan().find("optimizer", recipe.optimizer).defaults | recipe.optimizer_args
    for step in range(1, STEPS + 1):
        g = gradient(w, step)
        if recipe.optimizer == "adamw":
            w = w - LR * decay * w  # Loshchilov and Hutter 2017, algorithm 2
        else:
            g = g + decay * w
        w, state = RULES[recipe.optimizer](w, g, state, step, args)
    return w


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd", "optimizer_args": {"momentum": 0.0}},
        {"optimizer": "sgd", "optimizer_args": {"momentum": 0.9, "nesterov": False}},
        {"optimizer": "sgd", "optimizer_args": {"momentum": 0.8, "nesterov": True}},
        {"optimizer": "rmsprop", "optimizer_args": {"momentum": 0.0}},
        {"optimizer": "rmsprop", "optimizer_args": {"momentum": 0.7}},
        {"optimizer": "adam"},
        {"optimizer": "adam", "optimizer_args": {"betas": [0.5, 0.9]}},
        {"optimizer": "adamw"},
        {"optimizer": "adamw", "optimizer_args": {"betas": [0.5, 0.9]}},
    ],
    ids=str,
)
@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("biases_too", [False, True])
def test_steps_follow_the_textbook(settings, decay, biases_too):
    recipe = Recipe(**settings, weight_decay=decay, decay_norms_and_biases=biases_too)
    weight, bias = (nn.Parameter(torch.tensor(values)) for values in (START, START[1]))
    optimizer = build_optimizer(decay_groups([weight, bias], recipe), recipe, LR)
    for step in range(1, STEPS + 1):
        weight.grad = torch.from_numpy(gradient(weight.detach().numpy(), step))
        bias.grad = torch.from_numpy(gradient(bias.detach().numpy()[None], step)[0])
        optimizer.step()
    expected = by_the_book(START, recipe, decay)
    expected_bias = by_the_book(START[1:], recipe, decay if biases_too else 0.0)[0]
    np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(bias.detach().numpy(), expected_bias, rtol=1e-9, atol=1e-12)
    assert np.abs(expected - START).max() > 0.1


@pytest.mark.parametrize("biases_too", [False, True])
def test_norms_and_biases_do_not_decay_unless_asked(biases_too):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2), nn.LayerNorm(2))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    recipe = Recipe(weight_decay=DECAY, decay_norms_and_biases=biases_too)
    groups = build_optimizer(decay_groups(network.parameters(), recipe), recipe, LR).param_groups
    decay = {names[id(parameter)]: group["weight_decay"] for group in groups for parameter in group["params"]}
    assert decay.keys() == set(names.values()) and sum(len(group["params"]) for group in groups) == len(names)
    assert {name for name, value in decay.items() if value} == (set(decay) if biases_too else {"0.weight", "3.weight"})
    assert set(decay.values()) <= {0.0, DECAY}


@pytest.mark.parametrize("shapes", [[(2, 3)], [(3,)]])
def test_parameters_of_one_kind_are_enough(shapes):
    parameters = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    recipe = Recipe(optimizer="sgd", weight_decay=DECAY)
    groups = build_optimizer(decay_groups(parameters, recipe), recipe, LR).param_groups
    assert [group["weight_decay"] for group in groups] == [DECAY if len(shapes[0]) > 1 else 0.0]


@pytest.mark.parametrize(
    ("lr_base_batch_size", "global_batch", "expected"), [(None, 512, 0.1), (256, 512, 0.2), (256, 256, 0.1), (256, 64, 0.025)]
)
def test_the_learning_rate_grows_with_the_global_batch_if_asked(lr_base_batch_size, global_batch, expected):
    assert scaled_lr(Recipe(lr=0.1, lr_base_batch_size=lr_base_batch_size), global_batch) == pytest.approx(expected)


def test_an_argument_out_of_range_is_one_line():
    recipe = Recipe(optimizer="adamw", optimizer_args={"betas": [1.5, 0.9]})
    with pytest.raises(UserError, match="recipe.optimizer=adamw: Invalid beta parameter at index 0: 1.5"):
        build_optimizer([{"params": [nn.Parameter(torch.ones(2))]}], recipe, LR)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("lamb", {"betas": [0.9, 1]}, "betas: 1.0 must be at least 0 and less than 1"),
        ("muon", {"ns_steps": 0}, "ns_steps: 0 must be at least 1 and less than 100"),
        ("lbfgs", {"history_size": 0}, "history_size: 0 must be at least 1"),
        ("lbfgs", {"max_eval": 0}, "max_eval: 0 must be at least 1"),
    ],
)
def test_an_argument_that_would_fail_in_a_step_or_do_nothing_is_refused(name: str, arguments: dict, words: str) -> None:
    with pytest.raises(UserError, match=f"recipe.optimizer={name}: optimizer_args.{words}$"):
        build_optimizer([{"params": [nn.Parameter(torch.ones(2, 2))]}], Recipe(optimizer=name, optimizer_args=arguments), LR)


@pytest.mark.parametrize("line_search_fn", [None, "strong_wolfe"])
def test_lbfgs_steps_are_the_same_in_any_memory_format(line_search_fn: str | None) -> None:
    def weights(memory_format: torch.memory_format) -> torch.Tensor:
        torch.manual_seed(0)
        layer = nn.Conv2d(3, 4, 3, dtype=torch.float64).to(memory_format=memory_format)
        images = torch.randn(2, 3, 5, 5, dtype=torch.float64).to(memory_format=memory_format)
        recipe = Recipe(optimizer="lbfgs", optimizer_args={"line_search_fn": line_search_fn, "max_iter": 4})
        optimizer = build_optimizer(decay_groups(layer.parameters(), recipe), recipe, LR)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = (layer(images) - 1).pow(2).mean()
            loss.backward()
            return loss

        for _ in range(2):
            optimizer.step(closure)
        return layer.weight.detach()

    assert torch.allclose(weights(torch.channels_last), weights(torch.contiguous_format), rtol=1e-9)


# ------------------------------------------------------------------ torch's own

OF_TORCH = {
    name: each
    for name, each in vars(torch.optim).items()
    if isinstance(each, type) and issubclass(each, torch.optim.Optimizer) and each is not torch.optim.Optimizer
}
NAMES = {name: {"SparseAdam": "sparse_adam"}.get(name, name.lower()) for name in OF_TORCH}
# which choose an implementation, or follow from the recipe
NO_OPTIONS = {"self", "params", "lr", "weight_decay", "foreach", "fused", "capturable", "differentiable", "maximize"}
OTHER_DEFAULTS = {"SGD": {"momentum", "nesterov"}, "RMSprop": {"momentum"}, "Muon": {"adjust_lr_fn"}}
LEFT_OUT = {"Adam": {"decoupled_weight_decay"}}  # which is adamw


@pytest.mark.parametrize("name", OF_TORCH)
def test_every_optimizer_of_torch_is_there_with_its_arguments(name: str) -> None:
    parameters = inspect.signature(OF_TORCH[name]).parameters.values()
    arguments = {each.name: each.default for each in parameters if each.name not in NO_OPTIONS | LEFT_OUT.get(name, set())}
    own = dict(scan().find("optimizer", NAMES[name]).defaults)
    assert own.keys() == arguments.keys()
    assert {key for key, value in arguments.items() if own[key] != value} == OTHER_DEFAULTS.get(name, set())


def parameters(sparse: bool = False) -> list[nn.Parameter]:
    """A matrix, a vector and a kernel, of which the first alone if gradients are ``sparse``."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 4)] if sparse else [(6, 4), (6,), (2, 3, 3, 3)]
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def objective(weights: list[nn.Parameter], step: int, sparse: bool) -> torch.Tensor:
    """A loss that is no parabola, with a minimum that moves with the step."""
    if sparse:
        chosen = torch.tensor([step % 6, (step + 2) % 6])
        return nn.functional.embedding(chosen, weights[0], sparse=True).sub(0.1 * step).cosh().sum()
    return sum(weight.sub(0.1 * step).cosh().log().sum() for weight in weights)


def take_steps(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], steps: Iterator[int]) -> None:
    sparse = len(weights) == 1
    for step in steps:

        def closure(step: int = step) -> torch.Tensor:
            optimizer.zero_grad()
            loss = objective(weights, step, sparse)
            loss.backward()
            return loss

        optimizer.step(closure)


def of_torch(name: str, weights: list[nn.Parameter]) -> list[torch.optim.Optimizer]:
    """The optimizer as torch's documentation would build it, with weight decay for all but vectors if it has any."""
    entry = scan().find("optimizer", NAMES[name])
    if name in ("LBFGS", "SparseAdam"):
        return [OF_TORCH[name](weights, LR)]
    decay = {"weight_decay": DECAY} if "weight_decay" in inspect.signature(OF_TORCH[name]).parameters else {}
    if name == "Muon":
        others = [{"params": weights[2:], **decay}, {"params": weights[1:2], "weight_decay": 0.0}]
        muon = torch.optim.Muon(weights[:1], LR, **decay, adjust_lr_fn="match_rms_adamw")
        return [muon, torch.optim.AdamW(others, LR)]
    without = {**decay, "weight_decay": 0.0} if decay else {}
    groups = [{"params": weights[::2], **decay}, {"params": weights[1:2], **without}]
    options = {key: value for key, value in entry.defaults.items() if key in OTHER_DEFAULTS.get(name, set())}
    return [OF_TORCH[name](groups, LR, **options)]


def built(name: str, weights: list[nn.Parameter]) -> torch.optim.Optimizer:
    has_decay = "weight_decay" in inspect.signature(OF_TORCH[name]).parameters
    recipe = Recipe(optimizer=NAMES[name], weight_decay=DECAY if has_decay else 0.0)
    return build_optimizer(decay_groups(weights, recipe), recipe, LR)


@pytest.mark.parametrize("name", OF_TORCH)
def test_steps_equal_those_of_torch(name: str) -> None:
    ours, theirs = parameters(name == "SparseAdam"), parameters(name == "SparseAdam")
    start = [weight.detach().clone() for weight in ours]
    take_steps(built(name, ours), ours, range(1, STEPS))
    optimizers = of_torch(name, theirs)
    if len(optimizers) == 1:
        take_steps(optimizers[0], theirs, range(1, STEPS))
    else:
        for step in range(1, STEPS):
            for optimizer in optimizers:
                optimizer.zero_grad()
            objective(theirs, step, False).backward()
            for optimizer in optimizers:
                optimizer.step()
    for weight, expected, before in zip(ours, theirs, start, strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6)
        assert not torch.equal(weight, before)


@pytest.mark.parametrize("name", [*NAMES.values(), "lamb"])
def test_a_restored_state_goes_on_with_the_same_bits(name: str) -> None:
    recipe = Recipe(optimizer=name)
    weights = parameters(name == "sparse_adam")
    optimizer = build_optimizer(decay_groups(weights, recipe), recipe, LR)
    take_steps(optimizer, weights, range(1, 4))
    state = optimizer.state_dict()
    torch.save(state, "state.pt")
    copies = [nn.Parameter(weight.detach().clone()) for weight in weights]
    restored = build_optimizer(decay_groups(copies, recipe), recipe, LR)
    restored.load_state_dict(torch.load("state.pt", weights_only=True))
    require_fitting_state(restored)
    for each, its in ((optimizer, weights), (restored, copies)):
        for group in each.param_groups:
            group["lr"] = 0.5 * LR  # as a schedule does
        take_steps(each, its, range(4, 7))
    assert all(map(torch.equal, weights, copies))
    assert str(optimizer.state_dict()) == str(restored.state_dict())


def test_the_rate_of_each_part_of_muon_follows_the_schedule() -> None:
    weights = parameters()
    optimizer = build_optimizer(decay_groups(weights, recipe := Recipe(optimizer="muon")), recipe, LR)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    before = [weight.detach().clone() for weight in weights]
    schedule.step()
    take_steps(optimizer, weights, range(1, 3))
    assert all(map(torch.equal, weights, before)), "the rate is 0"


def test_what_an_optimizer_cannot_do_is_refused_in_one_line() -> None:
    def refusal(network: nn.Module, processes: int = 1, **settings: object) -> str:
        recipe = Recipe(**settings)
        optimizer = build_optimizer(decay_groups(network.parameters(), recipe), recipe, LR)
        with pytest.raises(UserError) as raised:
            require_fitting(optimizer, network, recipe, processes)
        return str(raised.value)

    layer = nn.Linear(3, 2)
    assert refusal(layer, optimizer="sparse_adam").endswith("and that of weight is dense: choose adam")
    assert "use one device" in refusal(layer, 2, optimizer="lbfgs")
    assert refusal(layer, optimizer="lbfgs", accumulate_grad_batches=4).startswith("recipe.accumulate_grad_batches=4: lbfgs")
    assert refusal(layer, optimizer="lbfgs", layer_decay=0.5).startswith(
        "recipe.layer_decay=0.5: lbfgs cannot: set recipe.layer_decay=1.0"
    )
    assert "choose bf16 or 32" in refusal(layer, optimizer="lbfgs", precision="16")
    sparse, recipe = nn.Embedding(4, 2, sparse=True), Recipe(optimizer="sparse_adam")
    require_fitting(build_optimizer(decay_groups(sparse.parameters(), recipe), recipe, LR), sparse, recipe, 2)
    for name in ("lbfgs", "rprop", "sparse_adam"):
        with pytest.raises(UserError, match=f"recipe.weight_decay=0.1: {name} has no weight decay"):
            build_optimizer(decay_groups(parameters(), decays := Recipe(optimizer=name, weight_decay=0.1)), decays, LR)


def test_lamb_without_timm_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    with pytest.raises(UserError, match=r"recipe.optimizer=lamb is timm's, .*pip install 'bestiary\[timm\]', or choose adamw"):
        build_optimizer(decay_groups(parameters(), recipe := Recipe(optimizer="lamb")), recipe, LR)
