"""Gradient check: analytic gradients of a model against finite differences of its loss, parameter by parameter, in float64.

Networks have kinks, and a difference across a kink is no derivative. Kinks are detected from values of the loss alone, so that no
wrong gradient passes for a kink.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor, nn

from zoo.config.resolution import resolve
from zoo.core.errors import UserError
from zoo.registry.entry import Entry
from zoo.registry.registry import Registry
from zoo.tasks.task import Task
from zoo.training import building

TOLERANCE = 1e-6  # of the relative error
SMOOTHNESS = 5e-7  # of the relative disagreement between estimates of a derivative; more is a kink
# what rounding may do to a derivative, relative to it, at the first and the second step that is tried: a smaller step meets fewer
# kinks, but loses more digits
LOST = (1e-7, 5e-7)
SMALLEST_STEP, LARGEST_STEP = 1e-9, 1e-4  # relative to the parameter
ROUNDING = 32  # four standard deviations of the noisiest estimate below, in standard deviations of the loss
NOISE_STEP, NOISE_VALUES = 1e-10, 12
BATCHES = 3  # on one batch a unit may be too near its kink to be checked
TRIES = 3  # candidates for each point that is wanted, on each batch
MOST_ENTRIES = 100  # of a gradient that are looked for
TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class ParameterCheck:
    """Result for one parameter tensor.

    Attributes:
        gradient: norm of the analytic gradient.
        error: the largest relative error, ``|a - n| / max(|a|, |n|)``, of analytic derivatives ``a`` against numeric ones ``n``
            (Stanford CS231n, notes on gradient checks). Where both are so small that a difference of one part in a million would
            drown in the rounding of the loss, the denominator is as large as is needed for it not to; so a gradient that is zero
            up to rounding has a small error. Infinite if a derivative is not a number, or none was compared.
        compared: points at which both were compared.
        kinks: points that were left out because the loss has a kink there.
        passed: the error is below 1e-6, at as many points as are wanted.
    """

    name: str
    shape: tuple[int, ...]
    gradient: float
    error: float
    compared: int
    kinks: int
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for ``--json``, which knows no infinity."""
        return {key: None if isinstance(value, float) and not isfinite(value) else value for key, value in vars(self).items()}


def check_gradients(
    registry: Registry, entry: Entry, samples: int = 4, points: int = 2, settings: Sequence[dict[str, dict[str, Any]]] = ()
) -> Iterator[ParameterCheck]:
    """Check every parameter of a model's ``tiny`` variant, in training mode, on random batches; of none, if there is none.

    Args:
        samples: in a batch; its statistics are part of the loss when there is batch norm.
        points: see ``compare_gradients``.
        settings: trees of section -> key -> value that go over the tiny variant, as in its data.

    Raises:
        UserError: the model cannot be built, or leaves float64.
    """
    run = resolve(registry, entry.name, {}, [{"model": entry.tiny}, *settings])
    task = building.build_task(registry, run, building.open_data(registry, run).spec).double().train()
    parameters = {name: parameter for name, parameter in task.named_parameters() if parameter.requires_grad}
    losses = [_repeatable_loss(task, task.example_batch(samples, seed)) for seed in range(BATCHES if parameters else 0)]
    return compare_gradients(losses, parameters, points)


def _repeatable_loss(task: Task, batch: dict[str, Tensor]) -> Callable[[], Tensor]:
    """The loss of a batch as a function of the parameters alone: with one dropout, and buffers as they were."""
    batch = {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
    buffers = [(buffer, buffer.clone()) for buffer in task.buffers()]

    def loss() -> Tensor:
        torch.manual_seed(0)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        return task.training_step(dict(batch), 0)

    return loss


def compare_gradients(
    losses: list[Callable[[], Tensor]], parameters: dict[str, nn.Parameter], points: int = 2
) -> Iterator[ParameterCheck]:
    """Compare derivatives of a loss by its parameters with differences of it.

    Args:
        losses: on different batches, each the same 0-d float64 tensor whenever the parameters are the same. The first is used,
            and another for a parameter that finds too many kinks there.
        parameters: float64 tensors; they are moved about and put back.
        points: for each parameter, how many of the largest entries of its gradient are compared, and along how many random
            directions in which all entries move.

    Raises:
        UserError: a loss is not in float64, or not finite.
    """
    bases = [cache(partial(Base, loss, parameters)) for loss in losses]  # one that is not needed is not computed
    for name, parameter in parameters.items():
        entries = min(points, parameter.numel())
        errors, kinks = _compare(bases, name, Base.entries, entries)
        more_errors, more_kinks = _compare(bases, name, Base.directions, points)
        errors, kinks = errors + more_errors, kinks + more_kinks
        worst = max(errors, default=inf)
        passed = len(errors) == entries + points and worst < TOLERANCE
        norm = float(bases[0]().gradients[name].norm())
        yield ParameterCheck(name, tuple(parameter.shape), norm, worst, len(errors), kinks, passed)


def _compare(
    bases: list[Callable[[], Base]], name: str, candidates: Callable[[Base, str], Iterator[Tensor]], wanted: int
) -> tuple[list[float], int]:
    """The relative errors at as many points as are wanted, and the number of kinks on the way."""
    errors: list[float] = []
    kinks = 0
    for base in bases:
        for direction in islice(candidates(base(), name), TRIES * wanted):
            error = base().relative_error(name, direction)
            if error is None:
                kinks += 1
            else:
                errors.append(error)
            if len(errors) == wanted:
                return errors, kinks
    return errors, kinks


class Base:
    """A loss at the parameters as they are: its value, its gradients, its noise, and the derivatives around it."""

    def __init__(self, loss: Callable[[], Tensor], parameters: dict[str, nn.Parameter]) -> None:
        value = loss()
        if value.dtype != torch.float64:
            raise UserError(f"the loss is {value.dtype} though all parameters are float64: an intermediate result is converted")
        if not value.isfinite():
            raise UserError(f"the loss is {value.item()}: there is nothing to differentiate")
        gradients = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
        self.loss, self.value, self.parameters = loss, value.item(), parameters
        self.gradients = {
            name: torch.zeros_like(parameter) if gradient is None else gradient
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
        }
        self.noise = self._noise()

    def entries(self, name: str) -> Iterator[Tensor]:
        """Directions along single entries, from the largest of the gradient on: rounding matters least there."""
        gradient, size = self.gradients[name], _typical_size(self.parameters[name])
        for index in gradient.abs().flatten().topk(min(gradient.numel(), MOST_ENTRIES)).indices:
            direction = torch.zeros_like(gradient)
            direction[torch.unravel_index(index, gradient.shape)] = size
            yield direction

    def directions(self, name: str) -> Iterator[Tensor]:
        """Random directions in which each entry moves with the sign of its gradient, so that their parts do not cancel."""
        gradient, size = self.gradients[name], _typical_size(self.parameters[name])
        generator = torch.Generator().manual_seed(0)
        while True:
            random = torch.randn(gradient.shape, generator=generator, dtype=gradient.dtype)
            direction = torch.where(gradient == 0, random, random.abs() * gradient.sign())
            yield direction * (size * gradient.numel() ** 0.5 / direction.norm())

    def relative_error(self, name: str, direction: Tensor) -> float | None:
        """Of the derivative along a direction; None if the loss has a kink there.

        The step is as large as rounding demands and, should it meet a kink, once more as small as rounding allows.
        """
        analytic = float((self.gradients[name] * direction).sum())
        if not isfinite(analytic):
            return inf
        for lost in LOST:
            step = ROUNDING * self.noise / max(lost * abs(analytic), TINY)
            step = min(max(step, SMALLEST_STEP), LARGEST_STEP)
            rounding = ROUNDING * self.noise / step
            numeric, disagreement = self.derivative(name, direction, step)
            if disagreement <= max(SMOOTHNESS * abs(numeric), rounding):
                return abs(analytic - numeric) / max(abs(analytic), abs(numeric), rounding / TOLERANCE)
        return None

    @torch.no_grad()
    def derivative(self, name: str, direction: Tensor, step: float) -> tuple[float, float]:
        """The derivative along a direction from values of the loss, and by how much estimates of it disagree.

        It is Richardson's extrapolation of centered differences with ``step`` and half of it, whose error is of fourth order
        (Press et al., Numerical Recipes, section 5.7). Where the loss is smooth the two differences agree to second order, and
        the derivatives from either side, each from three values, to third. A kink, anywhere within the step, upsets one of the
        two by at least six sevenths of what it does to the result.
        """
        parameter = self.parameters[name]
        start = parameter.clone()

        def at(distance: float) -> float:
            parameter.copy_(start).add_(direction, alpha=distance)
            return self.loss().item()

        ahead, behind, half_ahead, half_behind = (at(distance) for distance in (step, -step, step / 2, -step / 2))
        parameter.copy_(start)
        coarse, fine = (ahead - behind) / (2 * step), (half_ahead - half_behind) / step
        right = (4 * half_ahead - ahead - 3 * self.value) / step
        left = (3 * self.value - 4 * half_behind + behind) / step
        return (4 * fine - coarse) / 3, max(abs(right - left), abs(fine - coarse))

    @torch.no_grad()
    def _noise(self) -> float:
        """Standard deviation of the loss from rounding, at least half a unit in its last place.

        From fourth differences at places so close together that a smooth loss has none (Moré and Wild 2011, "Estimating
        computational noise", section 3); the median, for there may be a kink among them.
        """
        starts = {name: parameter.clone() for name, parameter in self.parameters.items()}
        line = {name: next(self.directions(name)) for name in self.parameters}
        values = []
        for i in range(NOISE_VALUES):
            for name, parameter in self.parameters.items():
                parameter.copy_(starts[name]).add_(line[name], alpha=i * NOISE_STEP)
            values.append(self.loss())
        for name, parameter in self.parameters.items():
            parameter.copy_(starts[name])
        # of independent values with deviation 1 a fourth difference has the variance 8! / 4!^2; half of all lie within 0.6745
        deviation = float(torch.stack(values).diff(n=4).abs().median()) / (70**0.5 * 0.6745)
        return max(deviation, abs(self.value) * torch.finfo(torch.float64).eps / 2)


def _typical_size(parameter: Tensor) -> float:
    """Root mean square of the entries; 1 for a parameter that starts at zero."""
    return float(parameter.detach().square().mean().sqrt()) or 1.0
