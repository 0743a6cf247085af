"""Optimizers: all of ``torch.optim`` under the names and with the arguments that they have there, and LAMB.

Arguments that choose an implementation, such as ``foreach``, are left out. ``sgd`` and ``rmsprop`` have momentum by default.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn
from torch.optim import Optimizer

from zoo.config.options import check_options
from zoo.config.recipe import Recipe
from zoo.core.errors import UserError, one_line
from zoo.optim.lbfgs import LBFGS
from zoo.optim.muon import MuonWithAdamW
from zoo.registry.entry import register_optimizer
from zoo.registry.registry import current_registry


@register_optimizer("sgd")
def sgd(params: list[dict], lr: float, momentum: float = 0.9, nesterov: bool = True, dampening: float = 0.0) -> Optimizer:
    """Stochastic gradient descent; weight decay is an L2 penalty."""
    return torch.optim.SGD(params, lr, momentum, dampening, nesterov=nesterov and momentum > 0, fused=True)


@register_optimizer("rmsprop")
def rmsprop(
    params: list[dict], lr: float, momentum: float = 0.9, alpha: float = 0.99, eps: float = 1e-8, centered: bool = False
) -> Optimizer:
    """RMSprop; weight decay is an L2 penalty."""
    return torch.optim.RMSprop(params, lr, alpha, eps, momentum=momentum, centered=centered)


@register_optimizer("adam")
def adam(
    params: list[dict], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, amsgrad: bool = False
) -> Optimizer:
    """Adam (Kingma and Ba 2014); weight decay is an L2 penalty."""
    return torch.optim.Adam(params, lr, betas, eps, amsgrad=amsgrad, fused=True)


@register_optimizer("adamw")
def adamw(
    params: list[dict], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, amsgrad: bool = False
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017)."""
    return torch.optim.AdamW(params, lr, betas, eps, amsgrad=amsgrad, fused=True)


@register_optimizer("nadam")
def nadam(
    params: list[dict],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    momentum_decay: float = 0.004,
    decoupled_weight_decay: bool = False,
) -> Optimizer:
    """Adam with Nesterov momentum (Dozat 2016); weight decay is an L2 penalty."""
    options = {"momentum_decay": momentum_decay, "decoupled_weight_decay": decoupled_weight_decay}
    return torch.optim.NAdam(params, lr, betas, eps, **options)


@register_optimizer("radam")
def radam(
    params: list[dict],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    decoupled_weight_decay: bool = False,
) -> Optimizer:
    """Adam with a rectified variance in the first steps (Liu et al. 2019); weight decay is an L2 penalty."""
    return torch.optim.RAdam(params, lr, betas, eps, decoupled_weight_decay=decoupled_weight_decay)


@register_optimizer("adamax")
def adamax(params: list[dict], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> Optimizer:
    """Adam with the infinity norm (Kingma and Ba 2014, section 7.1); weight decay is an L2 penalty."""
    return torch.optim.Adamax(params, lr, betas, eps)


@register_optimizer("adagrad")
def adagrad(
    params: list[dict], lr: float, lr_decay: float = 0.0, initial_accumulator_value: float = 0.0, eps: float = 1e-10
) -> Optimizer:
    """Adagrad (Duchi et al. 2011); weight decay is an L2 penalty."""
    return torch.optim.Adagrad(params, lr, lr_decay, initial_accumulator_value=initial_accumulator_value, eps=eps)


@register_optimizer("adadelta")
def adadelta(params: list[dict], lr: float, rho: float = 0.9, eps: float = 1e-6) -> Optimizer:
    """Adadelta, for a learning rate of about 1 (Zeiler 2012); weight decay is an L2 penalty."""
    return torch.optim.Adadelta(params, lr, rho, eps)


@register_optimizer("asgd")
def asgd(params: list[dict], lr: float, lambd: float = 1e-4, alpha: float = 0.75, t0: float = 1e6) -> Optimizer:
    """Averaged SGD, whose average is not evaluated (Polyak and Juditsky 1992); weight decay is an L2 penalty."""
    return torch.optim.ASGD(params, lr, lambd, alpha, t0)


@register_optimizer("rprop")
def rprop(
    params: list[dict],
    lr: float,
    etas: tuple[float, float] = (0.5, 1.2),
    step_sizes: tuple[float, float] = (1e-6, 50.0),
) -> Optimizer:
    """Resilient backpropagation, for full batches (Riedmiller and Braun 1993); no weight decay."""
    return torch.optim.Rprop(params, lr, etas, step_sizes)


@register_optimizer("adafactor")
def adafactor(
    params: list[dict],
    lr: float,
    beta2_decay: float = -0.8,
    eps: tuple[float | None, float] = (None, 1e-3),
    d: float = 1.0,
) -> Optimizer:
    """Adafactor, with little memory for matrices (Shazeer and Stern 2018); weight decay is decoupled."""
    return torch.optim.Adafactor(params, lr, beta2_decay, eps, d)


@register_optimizer("muon")
def muon(
    params: list[dict],
    lr: float,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
    eps: float = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: Literal["original", "match_rms_adamw", "spectral_unclamped"] = "match_rms_adamw",
) -> Optimizer:
    """Muon for matrices, and AdamW for all other parameters (Jordan et al. 2024); weight decay is decoupled.

    Args:
        adjust_lr_fn: match_rms_adamw suits learning rates and decays of AdamW, which both parts share (Liu et al. 2025).
    """
    _require_range("ns_steps", ns_steps, 1, 100)
    options = {"ns_coefficients": ns_coefficients, "eps": eps, "ns_steps": ns_steps, "adjust_lr_fn": adjust_lr_fn}
    return MuonWithAdamW(params, lr, momentum=momentum, nesterov=nesterov, **options)


@register_optimizer("lbfgs")
def lbfgs(
    params: list[dict],
    lr: float,
    max_iter: int = 20,
    max_eval: int | None = None,
    tolerance_grad: float = 1e-7,
    tolerance_change: float = 1e-9,
    history_size: int = 100,
    line_search_fn: Literal["strong_wolfe"] | None = None,
) -> Optimizer:
    """L-BFGS, for large batches and a learning rate of 1, on one device (Liu and Nocedal 1989); no weight decay."""
    for name, value in (("max_iter", max_iter), ("max_eval", max_eval), ("history_size", history_size)):
        _require_range(name, value, 1)
    parameters = [parameter for group in params for parameter in group["params"]]
    options = {"tolerance_grad": tolerance_grad, "tolerance_change": tolerance_change, "line_search_fn": line_search_fn}
    return LBFGS(parameters, lr, max_iter, max_eval, history_size=history_size, **options)


@register_optimizer("sparse_adam")
def sparse_adam(params: list[dict], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> Optimizer:
    """Adam for networks whose gradients are all sparse, of embeddings with ``sparse=True``; no weight decay."""
    return torch.optim.SparseAdam(params, lr, betas, eps)


@register_optimizer("lamb")
def lamb(
    params: list[dict],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
    bias_correction: bool = True,
    grad_averaging: bool = True,
    max_grad_norm: float | None = 1.0,
    trust_clip: bool = False,
    always_adapt: bool = False,
) -> Optimizer:
    """LAMB of timm, for large batches (You et al. 2019); weight decay is decoupled, and scaled with each step."""
    try:
        from timm.optim import Lamb
    except ImportError:
        advice = "pip install 'bestiary[timm]', or choose adamw"
        raise UserError(f"recipe.optimizer=lamb is timm's, which is not installed: {advice}") from None
    for beta in betas:
        _require_range("betas", beta, 0, 1)
    options = {"bias_correction": bias_correction, "grad_averaging": grad_averaging, "max_grad_norm": max_grad_norm}
    return Lamb(params, lr, betas=betas, eps=eps, trust_clip=trust_clip, always_adapt=always_adapt, **options)


def _require_range(name: str, value: float | None, least: int, below: float = math.inf) -> None:
    """Refuse an argument that a library takes, to fail in a step or to do nothing."""
    if value is not None and not least <= value < below:
        end = "" if below == math.inf else f" and less than {below}"
        raise ValueError(f"optimizer_args.{name}: {value} must be at least {least}{end}")


def build_optimizer(groups: list[dict], recipe: Recipe, lr: float) -> Optimizer:
    """Build the recipe's optimizer for ``decay_groups`` or ``stage_groups``; ``lr`` is for groups without their own.

    Raises:
        UserError: an argument out of range, or weight decay for an optimizer that has none.
    """
    entry = current_registry().find("optimizer", recipe.optimizer)
    try:
        optimizer = entry.load()(groups, lr=lr, **check_options(entry, recipe.optimizer_args))
    except ValueError as error:
        raise UserError(f"recipe.optimizer={recipe.optimizer}: {one_line(error)}") from error
    if recipe.weight_decay and "weight_decay" not in optimizer.defaults:
        raise UserError(f"recipe.weight_decay={recipe.weight_decay}: {recipe.optimizer} has no weight decay")
    return optimizer


def require_fitting(optimizer: Optimizer, network: nn.Module, recipe: Recipe, processes: int) -> None:
    """Refuse what an optimizer cannot do, which would fail in the first step, or never end.

    Raises:
        UserError: naming what it takes instead.
    """
    named = f"recipe.optimizer={recipe.optimizer}"
    if isinstance(optimizer, torch.optim.SparseAdam):
        modules = network.modules()
        sparse = {id(parameter) for each in modules if getattr(each, "sparse", False) for parameter in each.parameters(False)}
        trained = ((name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad)
        if dense := next((name for name, parameter in trained if id(parameter) not in sparse), ""):
            raise UserError(f"{named}: takes sparse gradients alone, and that of {dense} is dense: choose adam")
    if isinstance(optimizer, torch.optim.LBFGS):
        # it evaluates a batch several times in each step, and ends it by the loss
        if processes > 1:
            raise UserError(f"{named}: each process would end its step at another loss: use one device, or adamw")
        for key, takes in (("accumulate_grad_batches", 1), ("layer_decay", 1.0)):
            if (value := getattr(recipe, key)) != takes:
                raise UserError(f"recipe.{key}={value}: {recipe.optimizer} cannot: set recipe.{key}={takes}, or choose adamw")
        if recipe.precision == "16":
            raise UserError(f"recipe.precision=16: {recipe.optimizer} has no loss scaling: choose bf16 or 32")
