"""The vision transformer held against torchvision's own network and the paper's formulas, and its refusals."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionVisionTransformer

import zoo as bestiary
from zoo.core.errors import UserError
from zoo.spec import ImageSpec

SMALL = ImageSpec(3, 32, 32, classes=tuple("0123456789"))
SIZES = {"patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 4, "mlp_ratio": 3.0}
# our names -> torchvision's, the numbers of blocks aside
NAMES = {
    "embedding.patches": "conv_proj",
    "embedding.token": "class_token",
    "embedding.positions": "encoder.pos_embedding",
    "blocks.": "encoder.layers.encoder_layer_",
    ".norm1.": ".ln_1.",
    ".norm2.": ".ln_2.",
    ".attention.qkv.": ".self_attention.in_proj_",
    ".attention.out": ".self_attention.out_proj",
    "head.": "heads.head.",
}


def torchvisions_name(name: str) -> str:
    if name.startswith("norm."):
        return f"encoder.ln.{name.removeprefix('norm.')}"
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name


def create(name: str = "vit", spec: ImageSpec = SMALL, **options) -> nn.Module:
    """In evaluation and in float64, with no weight at a neutral value."""
    torch.manual_seed(0)
    task = bestiary.create_model(name, spec, **options).double().eval()
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return task


def images(spec: ImageSpec, n: int = 3) -> Tensor:
    return torch.randn(n, *spec.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def weights(task: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in task.named_parameters()}


def test_the_logits_are_torchvisions_from_the_same_weights_and_so_are_the_gradients():
    ours = create(global_pool="token", pos_embed="learned", **SIZES)
    theirs = TorchvisionVisionTransformer(32, 8, 3, 4, 24, 72, num_classes=10).double().eval()
    theirs.load_state_dict({torchvisions_name(name): value for name, value in weights(ours).items()}, strict=True)
    given = images(SMALL)
    logits, expected = ours(given), theirs(given)
    assert expected.std() > 1e-2
    torch.testing.assert_close(logits, expected)
    for network, output in ((ours, logits), (theirs, expected)):
        nn.functional.cross_entropy(output, torch.tensor([1, 2, 3])).backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
    others = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, others[torchvisions_name(name)].grad, msg=name)


@pytest.mark.parametrize("spec", [SMALL, ImageSpec(1, 8, 24, classes=("a", "b"))])
@pytest.mark.parametrize("pool", ["avg", "token"])
@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_the_network_equals_the_papers_equations(spec, pool, positions):
    """Dosovitskiy et al. 2020, equations 1 to 4, with torch's encoder layer for the blocks."""
    task = create(spec=spec, global_pool=pool, pos_embed=positions, **SIZES)
    given, state = images(spec), weights(task)
    rows = []
    for top in range(0, spec.height, 8):
        for left in range(0, spec.width, 8):
            pixels = given[:, :, top : top + 8, left : left + 8].flatten(1)
            rows.append(pixels @ state["embedding.patches.weight"].flatten(1).T + state["embedding.patches.bias"])
            if positions == "sinusoidal":
                code = [wave(place, i) for place in (top // 8, left // 8) for i in range(12)]
                rows[-1] = rows[-1] + torch.tensor(code, dtype=torch.float64)
    if pool == "token":
        rows.insert(0, state["embedding.token"][0].expand(3, -1))
    features = torch.stack(rows, 1)
    if positions == "learned":
        features = features + state["embedding.positions"]
    for number in range(3):
        features = torch_block(state, f"blocks.{number}.")(features)
    features = nn.functional.layer_norm(features, (24,), state["norm.weight"], state["norm.bias"], 1e-6)
    pooled = features[:, 0] if pool == "token" else features.mean(1)
    expected = pooled @ state["head.weight"].T + state["head.bias"]
    torch.testing.assert_close(task(given), expected, rtol=1e-5, atol=1e-5)  # the waves are float32


def wave(place: int, i: int) -> float:
    """Vaswani et al. 2017, section 3.5, for half of a width of 24."""
    angle = place / 10_000 ** (i // 2 * 2 / 12)
    return math.cos(angle) if i % 2 else math.sin(angle)


def torch_block(state: dict[str, Tensor], prefix: str) -> nn.Module:
    block = nn.TransformerEncoderLayer(24, 4, 72, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True, dtype=torch.float64)
    names = {"attention.qkv.": "self_attn.in_proj_", "attention.out": "self_attn.out_proj", "mlp.0": "linear1"}
    names["mlp.3"] = "linear2"
    own = {}
    for name, value in state.items():
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            for ours, theirs in names.items():
                name = name.replace(ours, theirs)
            own[name] = value
    block.load_state_dict(own, strict=True)
    return block.eval()


def test_positions_tell_patches_apart():
    """Without them a transformer sees a bag of patches: exchanging two would change nothing."""
    given = images(SMALL)
    exchanged = given.clone()
    exchanged[:, :, :8, :8], exchanged[:, :, 8:16, 16:24] = given[:, :, 8:16, 16:24], given[:, :, :8, :8]
    for positions in ("learned", "sinusoidal"):
        task = create(pos_embed=positions, **SIZES)
        assert not torch.allclose(task(given), task(exchanged))
        with torch.no_grad():
            task.embedding.positions.zero_()
        torch.testing.assert_close(task(given), task(exchanged))


@pytest.mark.parametrize(("name", "reference"), [("vit-b16-imagenet", "vit_b_16"), ("vit-l16-imagenet", "vit_l_16")])
def test_published_weights_fit_the_imagenet_networks(name, reference):
    spec = ImageSpec(3, 224, 224, classes=tuple(map(str, range(1000))))
    with torch.device("meta"):
        task = bestiary.create_model(name, spec)
        expected = torchvision.models.get_model(reference, weights=None).state_dict()
    task.network.load_state_dict(expected, strict=True)
    published = torchvision.models.get_model_weights(reference).IMAGENET1K_V1
    assert sum(parameter.numel() for parameter in task.parameters()) == published.meta["num_params"]


def test_the_imagenet_network_computes_what_torchvisions_does_on_color_and_gray():
    sizes = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 4}
    task = create("vit-b16-imagenet", **sizes)
    theirs = TorchvisionVisionTransformer(32, 8, 2, 4, 24, 96, num_classes=10).double().eval()
    theirs.load_state_dict(task.network.state_dict(), strict=True)
    gray = images(ImageSpec(1, 32, 32, classes=SMALL.classes))
    assert torch.equal(task(images(SMALL)), theirs(images(SMALL)))
    assert torch.equal(task(gray), theirs(gray.repeat(1, 3, 1, 1)))


def test_dropout_is_where_the_paper_has_it():
    """Appendix B.1: after every layer but the projections to queries, keys and values, and after the positions."""
    task = bestiary.create_model("vit", SMALL, dropout=0.25, **SIZES)
    dropping = {name for name, module in task.named_modules() if isinstance(module, nn.Dropout) and module.p == 0.25}
    blocks = {f"blocks.{number}.{name}" for number in range(3) for name in ("dropout", "mlp.2", "mlp.4")}
    assert dropping == {"embedding.dropout", *blocks}


@pytest.mark.parametrize("name", ["vit", "vit-b16-imagenet"])
@pytest.mark.parametrize(
    ("options", "words"),
    [({"patch_size": 5}, ["model.patch_size=5", "32x32", "is 4"]),
     ({"patch_size": 7}, ["model.patch_size=7", "is 8"]),
     ({"patch_size": 0}, ["model.patch_size=0", "is 1"]),
     ({"num_heads": 7, "embed_dim": 96}, ["model.num_heads=7", "model.embed_dim=96", "is 6"]),
     ({"depth": 0}, ["model.depth=0"]),
     ({"dropout": 1.0}, ["model.dropout=1.0"])],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_one_line_with_the_nearest_that_do(name, options, words):
    with pytest.raises(UserError) as error:
        bestiary.create_model(name, SMALL, **{"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, **options})
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "spec", "options", "words"),
    [("vit", SMALL, {"mlp_ratio": 0.0}, ["model.mlp_ratio=0.0"]),
     ("vit", SMALL, {"embed_dim": 6, "num_heads": 2, "pos_embed": "sinusoidal"}, ["model.embed_dim=6", "multiple of 4"]),
     ("vit", ImageSpec(3, 30, 45, classes=SMALL.classes), {}, ["model.patch_size=4", "30x45", "is 3"]),
     ("vit", ImageSpec(2, 1, 1, classes=("a", "b")), {}, ["points in the plane"]),
     ("vit-b16-imagenet", ImageSpec(3, 32, 64, classes=SMALL.classes), {}, ["square images", "32x64"])],
)  # fmt: skip
def test_data_and_options_that_do_not_fit_are_told(name, spec, options, words):
    with pytest.raises(UserError) as error:
        bestiary.create_model(name, spec, **options)
    assert all(word in str(error.value) for word in words)


def test_the_command_refuses_in_one_line_and_leaves_nothing(zoo, workplace):
    cases = {
        ("--set", "model.patch_size=5"): ["model.patch_size=5", "is 4"],
        ("--set", "model.num_heads=5"): ["model.num_heads=5", "is 4"],
        ("--set", "model.global_pool=max"): ["model.global_pool=max", "'avg'"],
        ("--data", "blobs"): ["vit needs images", "blobs is points"],
    }
    for arguments, words in cases.items():
        assert zoo("train", "vit", *arguments).is_one_line_error(*words), arguments
    assert not [path for path in workplace.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_it_learns_digits(zoo):
    small = ["--set", "model.embed_dim=48", "--set", "model.depth=2", "--set", "data.augment=none", "--epochs", "8"]
    patch = ["--set", "data.size=0", "--set", "model.patch_size=2", "--set", "recipe.lr=4e-3", "--set", "recipe.batch_size=32"]
    answer = zoo("train", "vit", *small, *patch, "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["test/accuracy"] > 0.8
