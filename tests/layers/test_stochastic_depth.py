"""Stochastic depth held against torchvision's, the paper's equation, and the networks without their dropped branches."""

from __future__ import annotations

import pytest
import torch
import torchvision
from timm.layers import DropPath
from torchvision.ops import stochastic_depth

import zoo as bestiary
from zoo.core.errors import UserError
from zoo.layers import attention
from zoo.layers import stochastic_depth as own
from zoo.models import resnet
from zoo.spec import ImageSpec

SPEC = ImageSpec(3, 32, 32, classes=tuple("0123456789"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(40, 3, 2, 2), (40, 5)])
def test_whole_samples_are_dropped_as_in_torchvision(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    branch = torch.randn(shape, dtype=dtype)
    torch.manual_seed(3)
    expected = stochastic_depth(branch, 0.3, "row")
    torch.manual_seed(3)
    assert torch.equal(own.drop_path(branch, 0.3, training=True), expected)
    assert own.drop_path(branch, 0.3, training=False) is branch
    assert own.drop_path(branch, 0.0, training=True) is branch


def test_the_rate_rises_linearly_over_the_blocks() -> None:
    survival = [1 - place / 5 * (1 - 0.5) for place in range(1, 6)]  # equation 4, with p_L = 0.5
    assert list(own.drop_path_rates(0.5, 5)) == pytest.approx([1 - each for each in survival])
    for rate in (-0.1, 1.0):
        with pytest.raises(UserError, match=f"model.drop_path_rate={rate}: must be at least 0 and less than 1"):
            own.drop_path_rates(rate, 5)


@pytest.mark.parametrize(
    ("name", "options", "branches"),
    [
        ("resnet20", {"depth": 14, "width": 4}, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
        ("vit", {"patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}, [0.2, 0.2, 0.4, 0.4, 0.6, 0.6]),
        ("resnet18", {"depth": 10}, [0.15, 0.3, 0.45, 0.6]),
        ("resnet50", {"depth": 14}, [0.15, 0.3, 0.45, 0.6]),
        ("vit-b16-imagenet", {"embed_dim": 16, "depth": 2, "num_heads": 2}, [0.3, 0.3, 0.6, 0.6]),
    ],
)
def test_every_residual_branch_is_dropped_at_its_rate(monkeypatch, name: str, options: dict, branches: list[float]) -> None:
    task = bestiary.create_model(name, SPEC, drop_path_rate=0.6, **options).train()
    found = []

    def note(branch: torch.Tensor, probability: float, training: bool) -> torch.Tensor:
        found.append(probability if training else 0.0)
        return 0 * branch

    for module in (attention, own, resnet):
        monkeypatch.setattr(module, "drop_path", note)
    images = torch.randn(2, *SPEC.shape)
    logits = task(images)
    assert found == pytest.approx(branches)
    if name == "vit":  # without its branches a transformer adds nothing to its embedding
        torch.testing.assert_close(logits, task.head(task.norm(task.embedding(images)).mean(1)))
    found.clear()
    for stage in task.stages().values():
        stage.eval()
    task(images)
    assert found == [0.0] * len(branches), "a frozen stage is in evaluation"


@pytest.mark.parametrize(("name", "options"), [("resnet18", {}), ("resnet50", {"depth": 14})])
def test_weights_keep_the_names_of_the_library(name: str, options: dict) -> None:
    with torch.device("meta"):
        dropped, plain = (bestiary.create_model(name, SPEC, drop_path_rate=rate, **options) for rate in (0.3, 0.0))
    assert dropped.state_dict().keys() == plain.state_dict().keys()


def test_networks_of_the_libraries_take_their_own_option() -> None:
    lite = bestiary.create_model("efficientnet-lite0", SPEC, network="test_efficientnet", drop_path_rate=0.4)
    rates = [each.drop_prob for each in lite.modules() if isinstance(each, DropPath)]
    assert rates and rates == sorted(rates) and 0 < rates[-1] < 0.4
    convnext = bestiary.create_model("torchvision", SPEC, network="convnext_tiny", network_args={"stochastic_depth_prob": 0.3})
    rates = [each.p for each in convnext.modules() if isinstance(each, torchvision.ops.StochasticDepth)]
    assert rates[-1] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        ("resnet20", ["model.drop_path_rate=1"], "must be at least 0 and less than 1"),
        ("efficientnet-lite0", ["model.drop_path_rate=-0.1"], "must be at least 0 and less than 1"),
        ("plain20", ["model.drop_path_rate=0.1"], "without shortcuts nothing goes around a dropped block"),
        ("resnet20", ["model.stochastic_depth_prob=0.1"], "did you mean 'drop_path_rate'?"),
        ("torchvision", ["model.network=swin_t", "model.drop_path_rate=0.1"], "did you mean 'stochastic_depth_prob'?"),
        ("torchvision", ["model.network=convnext_tiny", "model.drop_path_rate=0.1"], "did you mean 'stochastic_depth_prob'?"),
        (
            "torchvision",
            ["model.stochastic_depth_prob=1.5"],
            "model.stochastic_depth_prob=1.5: must be at least 0 and less than 1",
        ),
        ("timm", ["model.network=test_resnet", "model.drop_path_rate=1.5"], "model.drop_path_rate=1.5: must be at least 0"),
    ],
)
def test_what_cannot_be_dropped_is_refused_in_one_line(zoo, model: str, settings: list[str], words: str) -> None:
    arguments = [word for setting in settings for word in ("--set", setting)]
    assert zoo("train", model, *arguments).is_one_line_error(words)
