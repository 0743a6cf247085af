"""Arguments of library networks: passed on, and checked against the library's signature."""

from __future__ import annotations

import pytest
from torch import nn

from zoo.config.options import check_options
from zoo.config.resolution import resolve
from zoo.config.settings import parse_setting
from zoo.core.errors import UserError
from zoo.registry.registry import scan
from zoo.training.building import build_task, open_data


def build(model: str, *settings: str):
    run = resolve(scan(), model, {}, [parse_setting(text) for text in settings])
    return build_task(scan(), run, open_data(scan(), run).spec)


def test_arguments_reach_the_library() -> None:
    task = build("timm", "model.network=test_resnet", "model.drop_rate=0.25", "model.zero_init_last=false")
    assert task.network.drop_rate == 0.25
    task = build("torchvision", "model.network=mobilenet_v3_small", "model.network_args.dropout=0.75")
    assert [module.p for module in task.network.modules() if isinstance(module, nn.Dropout)] == [0.75]


def test_arguments_of_the_function_reach_it_too() -> None:
    def width(*settings: str) -> int:
        return build("torchvision", "model.network=mobilenet_v3_small", *settings).network.features[-1].out_channels

    assert width("model.width_mult=0.5") == width() / 2 == 288


def test_they_are_kept_with_the_model() -> None:
    given = {"network": "test_vit", "drop_path_rate": 0.1, "network_args": {"qkv_bias": False}}
    options = check_options(scan().model("timm"), given)
    assert options == {"network": "test_vit", "network_args": {"qkv_bias": False, "drop_path_rate": 0.1}}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["timm", "model.network=test_vit", "model.drop_pth_rate=0.1"], "timm's test_vit 'drop_pth_rate'.*'drop_path_rate'"),
        (["torchvision", "model.netwrk=resnet18"], "no argument of torchvision's resnet18 'netwrk': did you mean 'network'"),
        (["torchvision", "model.zero_init_residul=true"], "'zero_init_residual'"),
        (["timm", "model.checkpoint_path=x.pth"], "model.checkpoint_path: is not an argument"),
        (["timm", "model.num_classes=3"], "model.num_classes: is not an argument"),
        (["torchvision", "model.weights=DEFAULT"], "model.weights: is not an argument"),
        (["torchvision", "model.network=mobilenet_v3_small", "model.dropout=much"], "with {'dropout': 'much'}"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)  # fmt: skip
def test_what_the_library_does_not_take_is_one_line(settings: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        build(*settings)
    assert "\n" not in str(refused.value)


def test_features_dropped_by_a_function_are_not_cached() -> None:
    freeze = "recipe.freeze=backbone"
    assert build("timm", "model.network=test_efficientnet", freeze)._what_follows_the_features()
    assert not build("timm", "model.network=test_efficientnet", "model.drop_rate=0.2", freeze)._what_follows_the_features()
