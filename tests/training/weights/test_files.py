"""Weight files of the kinds that training scripts write: loaded or refused in one true line, and nothing in them run."""

from __future__ import annotations

import argparse
import collections
import copy
import functools
import pathlib
import pickle
import re
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchvision import models

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.registry.registry import scan
from zoo.spec import ImageSpec
from zoo.tasks.classification import Classifier
from zoo.training.weights.files import read_weights
from zoo.training.weights.loading import LoadReport, load_backbone

SPEC = ImageSpec(3, 32, 32, ("ant", "bee", "cow"))


@functools.cache
def network(seed: int = 0, classes: int = 7) -> nn.Module:
    torch.manual_seed(seed)
    return models.shufflenet_v2_x0_5(num_classes=classes)


def named(prefix: str = "", seed: int = 0) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in network(seed).state_dict().items()}


class Config(dict):
    """A dictionary with attributes, as many configuration libraries have one."""


class Runs:
    """What would run if it were unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def harmless() -> dict[str, Any]:
    config = Config(depth=20)
    config.name = "resnet"
    histories = collections.defaultdict(list)
    histories["loss"].append(np.float64(0.5))
    return {
        "args": argparse.Namespace(lr=0.1, output=pathlib.Path("out")), "best": np.float32(0.9), "rng": np.arange(3),
        "config": config, "history": histories, "schedule": functools.partial(max, 1), "queue": collections.deque([1]),
    }  # fmt: skip


def load(content: Any, **recipe: Any) -> tuple[Classifier, LoadReport]:
    torch.save(content, "w.pth")
    task = scan().model("torchvision").load()(SPEC, Recipe(**recipe), network="shufflenet_v2_x0_5")
    return task, load_backbone(task, read_weights(Path("w.pth"), recipe.get("weights_key", "")))


def has(task: Classifier, seed: int = 0) -> bool:
    own = task.state_dict()
    return all(torch.equal(own[f"network.{name}"], value) for name, value in named(seed=seed).items() if "fc." not in name)


@pytest.mark.parametrize("change", [Tensor.to_sparse, lambda w: w.to("meta"), lambda w: w.to(torch.complex64)], ids=range(3))
def test_tensors_that_are_no_weights_are_refused_by_name(change: Callable[[Tensor], Tensor]) -> None:
    torch.save({"fc.weight": change(torch.ones(2, 2))}, "w.pth")
    with pytest.raises(UserError, match=r"^w\.pth: fc\.weight is .*: weights are dense tensors of real numbers$"):
        read_weights(Path("w.pth"))


def backbone_and_head() -> dict[str, Tensor]:
    return {("head." if "fc." in name else "backbone.") + name: value for name, value in named().items()}


LOADED = {
    "plain": (lambda: named(), ""),
    "wrapped, with objects beside it": (lambda: {"model": named("module."), "optimizer": {"lr": 1}, **harmless()}, ""),
    "objects among the weights": (lambda: {**named(), **harmless()}, ""),
    "lightning": (
        lambda: {"state_dict": {**named("model."), "loss.weight": torch.ones(7)}, "callbacks": {}, "loops": Runs(print, 1)},
        "; skipped: loss.weight",
    ),
    "averages beside the raw weights": (
        lambda: {"model": named(seed=1), "model_ema": named("module.")},
        " under 'model_ema' (--set recipe.weights_key=model loads the others)",
    ),
    "timm's averages": (
        lambda: {"state_dict": named(seed=1), "state_dict_ema": named(), "args": argparse.Namespace()},
        "state_dict_ema",
    ),
    "averages one level deeper": (
        lambda: {"model": named(seed=1), "ema": {"decay": 0.9, "module": named()}},
        "under 'ema.module'",
    ),
    "averaged by torch": (lambda: AveragedModel(copy.deepcopy(network())).state_dict(), "; skipped: n_averaged"),
    "compiled": (lambda: named("_orig_mod."), ""),
    "compiled, parallel and wrapped": (lambda: named("module._orig_mod.model.backbone."), ""),
    "backbone and head": (lambda: backbone_and_head(), "; its head was replaced; skipped: head.fc."),
    "parameters": (lambda: dict(network().named_parameters()) | dict(network().named_buffers()), ""),
}


@pytest.mark.parametrize("kind", LOADED)
def test_it_is_loaded_and_said(kind: str, workplace: Path) -> None:
    content, said = LOADED[kind]
    task, report = load(content())
    assert has(task) and said in str(report)
    assert not report.left_out or set(report.left_out) <= set(read_weights(Path("w.pth")).state)


def test_averages_or_raw_weights_are_chosen(workplace: Path) -> None:
    content = {"model": named(seed=1), "model_ema": named()}
    for key, seed in {"": 0, "model_ema": 0, "model": 1}.items():
        assert has(load(content, weights_key=key)[0], seed)
    both = {**named("net.", seed=1), **named("ema_net.")}
    assert has(load(both, weights_key="ema_net")[0], 0) and has(load(both, weights_key="net")[0], 1)
    with pytest.raises(UserError, match=r"no weights in w.pth under 'model_emma': did you mean 'model_ema'"):
        load(content, weights_key="model_emma")


NESTED = {
    "nested": (lambda: {"net": {"enc": named(), "head": {"a": torch.ones(1)}}}, "net.enc"),
    "nested under no usual key": (lambda: {"student": {"enc": named()}}, "student.enc"),
    "a key with dots": (lambda: {"net.enc": named(), "net": {"head": {"a": torch.ones(1)}}}, "net.enc"),
    "dots on both levels": (lambda: {"a.b": {"c.d": named()}}, "a.b.c.d"),
    "a wrapper below the key": (lambda: {"student": {"state_dict": named()}}, "student"),
    "names inside a wrapper": (lambda: {"state_dict": {**named("net.enc."), **named("net.ema.", seed=1)}}, "net.enc"),
    "the wrapper named too": (lambda: {"state_dict": {**named("net.enc."), **named("net.ema.", seed=1)}}, "state_dict.net.enc"),
}


@pytest.mark.parametrize("kind", NESTED)
def test_a_key_may_be_nested_or_have_dots(kind: str, workplace: Path) -> None:
    content, key = NESTED[kind]
    assert has(load(content(), weights_key=key)[0])


@pytest.mark.parametrize(
    ("content", "key", "says"),
    [
        ({"net": {"enc": {"a": torch.ones(1)}}}, "net.encc", "no weights in w.pth under 'net.encc': did you mean 'net.enc'"),
        ({"net": {"enc": {"a": torch.ones(1)}}}, "x", "no weights in w.pth under 'x': choose from net.enc$"),
        ({"body.a": torch.ones(1), "head.a": torch.ones(1)}, "heads", "under 'heads': did you mean 'head'"),
        ({"state_dict": {"body.a": torch.ones(1)}}, "boddy", "under 'boddy': did you mean 'body'"),
        ({"a": torch.ones(1)}, "net", "no weights in w.pth under 'net': omit recipe.weights_key$"),
        (
            {"net": {"enc": {"a": torch.ones(1)}}},
            "",
            "^w.pth has its weights under 'net.enc': load them with --set recipe.weights_key=net.enc$",
        ),
    ],
)
def test_a_key_that_is_not_there_is_told_with_those_of_the_file(content: dict, key: str, says: str, workplace: Path) -> None:
    torch.save(content, "w.pth")
    with pytest.raises(UserError, match=says):
        read_weights(Path("w.pth"), key)


def test_files_of_another_kind_are_named(workplace: Path) -> None:
    layer = nn.Linear(2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(layer, torch.zeros(1, 2)).save("script.pt")
    torch.export.save(torch.export.export(layer, (torch.zeros(1, 2),)), "program.pt2")
    np.savez("arrays.npz", w=np.zeros(2))
    np.save("array.npy", np.zeros(2))
    Path("plain.pkl").write_bytes(pickle.dumps({"lr": 0.1}))
    Path("tensors.pkl").write_bytes(pickle.dumps(layer.state_dict()))
    Path("page.pth").write_text("<!DOCTYPE html>")
    Path("pointer.pth").write_text("version https://git-lfs.github.com/spec/v1")
    for file, says in {
        "script.pt": "a TorchScript program: save torch.jit.load(file).state_dict() with torch.save",
        "program.pt2": "a program of torch.export: save torch.export.load(file).state_dict with torch.save",
        "arrays.npz": "an archive of NumPy arrays",
        "array.npy": "a NumPy array",
        "plain.pkl": "a pickle that torch.save did not write",
        "tensors.pkl": "a pickle that torch.save did not write",
        "page.pth": "a web page",
        "pointer.pth": "a pointer of Git LFS",
    }.items():
        with pytest.raises(UserError, match=f"^{re.escape(f'{file} is {says}')}"):
            read_weights(Path(file))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(torch.jit.load("script.pt").state_dict(), "script.pth")
    torch.save(torch.export.load("program.pt2").state_dict, "program.pth")
    for file in ("script.pth", "program.pth"):  # the advice works
        assert torch.equal(read_weights(Path(file)).state["weight"], layer.weight)


REFUSED = {
    "a whole module": (
        lambda: network(),
        "w.pth contains no weights: in their place is a pickled torchvision.*NetV2, of which nothing was run",
    ),
    "a module under a key": (lambda: {"model": network()}, "in their place is a pickled torchvision"),
    "an object in place of a weight": (
        lambda: {**named(), "conv1.0.weight": argparse.Namespace()},
        "does not fit this network, nothing was loaded: 1 not a tensor: conv1.0.weight, a argparse.Namespace$",
    ),
    "code in place of a weight": (
        lambda: {**named(), "conv1.0.weight": Runs(subprocess.check_output, ["touch", "ran"])},
        "1 not a tensor: conv1.0.weight, a ",
    ),
    "a call of the system": (
        lambda: {"model": named(), "x": Runs(__import__("os").mkdir, "ran")},
        "is refused: it would run posix.mkdir",
    ),
    "a method": (
        lambda: {"model": named(), "x": Runs(pathlib.Path.touch, Path("ran"))},
        "is refused: it would run what builtins.getattr returns, but weights are plain data",
    ),
    "a weight too few": (lambda: dict([*named("model.").items()][1:]), "1 missing: model.conv1.0.weight$"),
    "a weight of another shape": (
        lambda: {**named(), "conv1.0.weight": torch.ones(1)},
        "1 of another shape: conv1.0.weight 1 instead of 24x3x3x3$",
    ),
    "no weights": (
        lambda: {"epoch": 3, "args": argparse.Namespace()},
        "w.pth contains no weights: in their place is a pickled argparse.Namespace",
    ),
    "not finite": (
        lambda: {**named(), "conv1.0.weight": torch.full((24, 3, 3, 3), torch.nan)},
        "non-finite values, nothing was loaded: conv1.0.weight",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_it_is_refused_in_one_true_line(kind: str, workplace: Path) -> None:
    content, said = REFUSED[kind]
    with pytest.raises(UserError, match=said) as refused:
        load(content())
    assert "\n" not in str(refused.value) and not Path("ran").exists()


@pytest.mark.parametrize(
    "call",
    [
        (subprocess.run, ["touch", "ran"]),
        (eval, "open('ran', 'w')"),
        (exec, "open('ran', 'w')"),
    ],
    ids=["subprocess", "eval", "exec"],
)
@pytest.mark.parametrize("protocol", ["zip", "legacy"])
def test_code_beside_the_weights_is_left_out_and_never_run(call: tuple[Any, ...], protocol: str, workplace: Path) -> None:
    torch.save({"model": named(), "extra": [Runs(*call)]}, "w.pth", _use_new_zipfile_serialization=protocol == "zip")
    if protocol == "zip":
        torch.load("w.pth", weights_only=False)
        assert Path("ran").exists()  # so the file is as bad as it should be
        Path("ran").unlink()
    assert list(read_weights(Path("w.pth")).state) == list(named())
    assert not Path("ran").exists()


def test_tensors_in_the_same_order_are_recognized_and_loaded_on_request(workplace: Path) -> None:
    renamed = {f"layer{place}": value for place, value in enumerate(named().values())}
    says = "has other names than this network, but its 338 tensors match in order and shape"
    with pytest.raises(UserError, match=f"^w.pth {says}: load them so with --set recipe.weights_by_order=true$"):
        load(renamed)
    task, report = load(renamed, weights_by_order=True)
    assert has(task) and "matched by order and shape; its head was replaced" in str(report)
    with pytest.raises(
        UserError, match="does not match this network in order and shape: .*; the first of another shape is number 1"
    ):
        load(models.squeezenet1_1().state_dict(), weights_by_order=True)


def test_a_published_cifar_resnet_is_recognized(workplace: Path) -> None:
    """The names of github.com/akamaster/pytorch_resnet_cifar10, whose files come from before torch counted batches."""
    task = (
        scan().model("resnet20").load()(ImageSpec(3, 32, 32, tuple("abcdefghij")), Recipe(weights_by_order=True, keep_head=True))
    )
    own = {name: torch.rand_like(value) for name, value in task.state_dict().items() if "num_batches" not in name}
    names = [f"module.{kind}.{place}" for place in range(100) for kind in ("conv1.weight", "bn1.weight")]
    torch.save({"state_dict": dict(zip(names, own.values(), strict=False)), "best_prec1": 91.7}, "w.th")
    report = load_backbone(task, read_weights(Path("w.th")))
    assert report.tensors == 97 and report.head == "kept"
    assert all(torch.equal(task.state_dict()[name], value) for name, value in own.items())


def test_a_head_is_kept_where_it_fits(workplace: Path) -> None:
    with pytest.raises(UserError, match="w.pth has a head for 7 classes, and the data has 3: omit --keep-head"):
        load(named(), keep_head=True)
    fits = network(2, classes=3)
    task, report = load({"state_dict": {f"model.{name}": value for name, value in fits.state_dict().items()}}, keep_head=True)
    assert torch.equal(task.network.fc.weight, fits.fc.weight) and "its head was kept" in str(report)
    beside = {("head." if "fc." in name else "backbone.") + name: value for name, value in fits.state_dict().items()}
    assert torch.equal(load(beside, keep_head=True)[0].network.fc.bias, fits.fc.bias)
    with pytest.raises(UserError, match="w.pth has no head"):
        load({name: value for name, value in fits.state_dict().items() if "fc." not in name}, keep_head=True)


def test_statistics_of_a_file_are_given(workplace: Path) -> None:
    task, _ = load(named(), weights_mean=(0.5, 0.4, 0.3), weights_std=(0.2, 0.2, 0.1))
    white = task.normalize(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))[0, :, 0, 0]
    torch.testing.assert_close(white, torch.tensor([2.5, 3.0, 7.0]))
    assert task.spec.mean == (0.5, 0.4, 0.3)


def test_safetensors_fit_too(workplace: Path) -> None:
    save_file(named("module."), "w.safetensors")
    task = scan().model("torchvision").load()(SPEC, Recipe(), network="shufflenet_v2_x0_5")
    load_backbone(task, read_weights(Path("w.safetensors")))
    assert has(task)
