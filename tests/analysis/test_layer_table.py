"""The table of layers held against torchinfo, PyTorch's own counter, published figures and the book."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchinfo
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from zoo.analysis.layer_table import LayerTable, tabulate
from zoo.config.resolution import resolve
from zoo.core.errors import UserError
from zoo.registry.registry import scan
from zoo.spec import ImageSpec
from zoo.training.building import build_task

REGISTRY = scan()


def table(name: str, shape: tuple[int, int, int] | None = None, **options) -> LayerTable:
    return tabulate(REGISTRY, resolve(REGISTRY, name, {}, [{"model": options}]), shape)


def counted_by_torchinfo(layer: torchinfo.layer_info.LayerInfo) -> int:
    """Multiply-adds without biases and norms, which torchinfo counts as well."""
    if not isinstance(layer.module, nn.Conv2d | nn.Linear):
        return 0
    biases = 0 if layer.module.bias is None else layer.module.bias.numel()
    if isinstance(layer.module, nn.Linear):  # torchinfo counts one place of a sequence
        return (layer.macs - biases) * math.prod(layer.output_size[1:-1])
    return layer.macs - biases * math.prod(layer.output_size[2:])


# of each class the smallest of its sizes, and those that are one of a kind
FIRST = {entry.class_name: name for name, entry in reversed(REGISTRY.models.items())}.values()
CLASSIFIERS = [name for name, entry in REGISTRY.models.items() if entry.task == "classification"]


@pytest.mark.parametrize("name", [name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in CLASSIFIERS])
def test_every_layer_of_every_model_is_as_torchinfo_says(name: str) -> None:
    square = {"transformer", "imagenet"} <= set(REGISTRY.model(name).tags)
    run, shape = resolve(REGISTRY, name, {}, []), (3, 32, 32 if square else 40)
    with torch.device("meta"):
        network = build_task(REGISTRY, run, ImageSpec(*shape, classes=tuple("0123456789"))).eval()
        images = torch.zeros(1, *shape)
    summary = torchinfo.summary(network, input_data=images, device="meta", depth=20, verbose=0)
    expected = [
        (layer.class_name, tuple(layer.output_size[1:]), layer.trainable_params, counted_by_torchinfo(layer))
        for layer in summary.summary_list
        if layer.is_leaf_layer and layer.class_name != "Identity"
    ]
    ours = tabulate(REGISTRY, run, shape)
    kinds = {kind for kind, *_ in expected}
    # torchinfo knows modules alone
    found = [(row.kind, row.output, row.parameters, row.multiply_adds) for row in ours.layers if row.kind in kinds]
    assert found == expected
    assert ours.parameters == summary.total_params == sum(parameter.numel() for parameter in network.parameters())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(images)
    assert 2 * ours.multiply_adds == counter.get_total_flops()


def test_vgg16_is_as_worked_by_hand() -> None:
    # Simonyan and Zisserman 2014, table 1, column D
    blocks, channels, side = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3), 3, 224
    field, stride, parameters, multiply_adds, pools = 1, 1, 0, 0, []
    for block in blocks:
        for after in block:
            parameters += 9 * channels * after + after
            multiply_adds += 9 * channels * after * side**2
            channels, field = after, field + 2 * stride
        field, stride, side = field + stride, 2 * stride, side // 2
        pools.append((field, stride, (channels, side, side)))
    assert [field for field, *_ in pools] == [6, 16, 44, 100, 212]
    for before, after in ((512 * 7 * 7, 4096), (4096, 4096), (4096, 10)):
        parameters += before * after + after
        multiply_adds += before * after
    found = table("vgg16-imagenet", (3, 224, 224))
    rows = [row for row in found.layers if row.kind == "MaxPool2d"]
    assert [(row.receptive_field, row.stride, row.output) for row in rows] == [
        ((field, field), (stride, stride), output) for field, stride, output in pools
    ]
    assert (found.parameters, found.multiply_adds) == (parameters, multiply_adds)
    # with the thousand classes of ImageNet they are the published ones (torchvision: 138357544 and 15.47 billion)
    assert parameters + 990 * 4097 == 138_357_544 and multiply_adds + 990 * 4096 == 15_470_264_320


def test_the_small_vgg_sees_what_the_large_one_sees() -> None:
    rows = [row for row in table("vgg16", (3, 224, 224)).layers if row.kind == "MaxPool2d"]
    assert [row.receptive_field[0] for row in rows] == [6, 16, 44, 100, 212]


def test_residual_network_by_hand() -> None:
    # He et al. 2015, section 4.2: of depth 8 there is one block a stage; on 32x32 pixels
    rows = table("resnet20", (3, 32, 32), depth=8, width=16).layers
    found = {
        (row.name, "add" if "add" in row.kind else row.kind): (row.output, row.multiply_adds, row.stride, row.receptive_field)
        for row in rows
    }
    assert found["stem.0", "Conv2d"] == ((16, 32, 32), 27 * 16 * 1024, (1, 1), (3, 3))
    assert found["stage1.0", "add"] == ((16, 32, 32), 0, (1, 1), (7, 7))
    assert found["stage2.0.conv1", "Conv2d"] == ((32, 16, 16), 9 * 16 * 32 * 256, (2, 2), (9, 9))
    assert found["stage2.0", "add"] == ((32, 16, 16), 0, (2, 2), (13, 13))
    assert found["stage3.0.conv2", "Conv2d"] == ((64, 8, 8), 9 * 64 * 64 * 64, (4, 4), (25, 25))
    assert found["", "mean"] == ((64,), 0, (None, None), (32, 32))
    assert found["head", "Linear"] == ((10,), 640, (None, None), (32, 32))


def test_rows_add_up_where_modules_compute_themselves_or_share_or_are_not_used(tmp_path: Path) -> None:
    path = tmp_path / "mixed_layers.py"
    path.write_text(MIXED_SOURCE)
    registry = scan([str(path)])
    found = tabulate(registry, resolve(registry, "mixed-layers", {}, []))
    rows = [(row.name, row.kind, row.output, row.parameters, row.multiply_adds) for row in found.layers]
    assert rows == [
        ("twice", "Linear", (64,), 64 * 64 + 64, 64 * 64),
        ("twice", "Linear", (64,), 0, 64 * 64),
        ("", "mul + addmm + relu", (8,), 1 + 64 * 8 + 8, 64 * 8),  # the scale and the parts of a module that is not called
        ("head", "Linear", (10,), 90, 80),
        ("spare", "Linear, not used", (), 12, 0),
    ]
    assert found.parameters == sum(row[3] for row in rows) == 4160 + 1 + 520 + 90 + 12


MIXED_SOURCE = '''
import torch
from torch import nn
from torch.nn import functional as F
from zoo import register_model
from zoo.tasks.classification import Classifier

@register_model("mixed-layers", task="classification", data="digits")
class Mixed(Classifier):
    """Calls a layer twice, another's parameters, and a third not at all."""
    def __init__(self, spec, recipe):
        super().__init__(spec, recipe)
        self.twice, self.inner, self.head, self.spare = nn.Linear(64, 64), nn.Linear(64, 8), nn.Linear(8, 10), nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.ones(1))
        self.start = torch.linspace(0, 1, 3).tolist()  # cannot be asked for on the meta device
    def forward(self, images):
        features = self.twice(self.twice(images.flatten(1)))
        return self.head(F.linear(features * self.scale, self.inner.weight, self.inner.bias).relu())
    def stages(self):
        return {"head": self.head}
'''


def test_nothing_is_downloaded_or_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_) -> None:
        raise AssertionError("data was fetched")

    monkeypatch.setattr("zoo.datamodules.bases.images.ImageData.prepare_data", fail)
    monkeypatch.setattr("zoo.datamodules.bases.images.ImageData.setup", fail)
    found = tabulate(REGISTRY, resolve(REGISTRY, "resnet152", {}, [{"data": {"name": "cifar10", "size": 224}}]))
    # He et al. 2015, table 1: 11.3 billion; torchvision counts 11.51 for a thousand classes
    assert found.multiply_adds == pytest.approx(11.51e9, rel=1e-3) and found.input == (3, 224, 224)


def test_data_without_neighbors_has_neither_stride_nor_field() -> None:
    found = table("mlp", (2, 1, 1))
    assert not found.has_positions and set(found.to_dict()["layers"][0]) == {
        "name", "kind", "output", "parameters", "multiply_adds",
    }  # fmt: skip
    assert table("mlp", (2, 1, 5)).has_positions


# ---------------------------------------------------------------------------------------------- the command


def test_the_command_prints_aligned_rows_and_totals(zoo) -> None:
    answer = zoo("show", "vgg16-imagenet", "--layers", "--input", "3x224x224")
    lines = answer.out.splitlines()
    assert answer.code == 0 and lines[0].split() == ["layer", "kind", "output", "parameters", "multiply-adds", "stride", "field"]
    assert lines[1].split() == ["network.features.0", "Conv2d", "64x224x224", "1,792", "86,704,128", "1", "3"]
    pool = next(line for line in lines if line.startswith("network.features.30 "))
    assert pool.split() == ["network.features.30", "MaxPool2d", "512x7x7", "0", "0", "32", "212"]
    assert any(line.split() == ["total", "134,301,514", "15,466,209,280"] for line in lines)
    head = next(line for line in lines if line.startswith("network.classifier.6 "))
    assert head.split()[-2:] == ["-", "all"] and "zoo train vgg16-imagenet" in lines[-1]


def test_the_command_prints_json_with_options_and_data(zoo) -> None:
    answer = zoo("show", "resnet20", "--layers", "--data", "cifar10", "--set", "model.width=4", "--set", "data.size=16", "--json")
    found = json.loads(answer.out)
    assert found["input"] == [3, 16, 16] and found["model"] == "resnet20"
    assert found["layers"][0] == {
        "name": "stem.0", "kind": "Conv2d", "output": [4, 16, 16], "parameters": 108, "multiply_adds": 27648,
        "stride": [1, 1], "receptive_field": [3, 3], "sees_all": False,
    }  # fmt: skip
    for total in ("parameters", "multiply_adds"):
        assert found[total] == sum(layer[total] for layer in found["layers"]) > 0


def test_height_and_width_are_told_apart(zoo) -> None:
    rows = table("convnet", (1, 8, 64)).layers
    assert rows[-4].kind == "Linear" and rows[-5].output == (128 * 1 * 8,)
    pools = [row for row in rows if row.kind == "MaxPool2d"]
    assert [row.receptive_field for row in pools] == [(4, 4), (10, 10), (8, 22)] and not pools[-1].sees_all
    assert "8x22" in zoo("show", "convnet", "--layers", "--input", "1x8x64").out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnt20", "--layers"], ["no model 'resnt20'", "'resnet20'"]),
        (["resnet20", "--layers", "--data", "cifar"], ["no data set 'cifar'", "'cifar10'"]),
        (["resnet20", "--layers", "--input", "224"], ["--input 224", "3x224x224"]),
        (["resnet20", "--layers", "--input", "3x-1x224"], ["--input 3x-1x224"]),
        (["resnet20", "--layers", "--input", "3x0x224"], ["--input 3x0x224"]),
        (["resnet20", "--layers", "--input", "3x²x224"], ["--input 3x²x224"]),
        (["resnet20", "--layers", "--input", "3x99999x9"], ["3x99999x9", "10,000"]),
        (["vgg16", "--layers", "--input", "3x16x16"], ["32x32"]),
        (["resnet20", "--layers", "--set", "model.dept=3"], ["'dept'", "'depth'"]),
        (["resnet20", "--layers", "--set", "recipe.lr=3"], ["recipe settings do not apply here"]),
        (["resnet20", "--input", "3x224x224"], ["--layers"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line(zoo, arguments: list[str], words: list[str]) -> None:
    answer = zoo("show", *arguments)
    assert answer.is_one_line_error(*words), answer


def test_an_input_that_vanishes_in_the_network_is_one_line(plugin: Path) -> None:
    registry = scan()
    run = resolve(registry, "squeezenet", {}, [])
    assert tabulate(registry, run).layers[0].receptive_field == (3, 3)
    with pytest.raises(UserError, match="squeezenet cannot take an input of 3x4x4") as error:
        tabulate(registry, run, (3, 4, 4))
    assert "\n" not in str(error.value)


def test_a_malformed_size_is_answered_without_torch() -> None:
    code = (
        "import sys; sys.argv = ['zoo', 'show', 'resnet20', '--layers', '--input', 'large']\n"
        "from zoo.cli import app\n"
        "try: app()\n"
        "except SystemExit as stop: assert stop.code == 2\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
