"""Networks held against published parameter counts, torchvision's networks and functional formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

import zoo
from zoo.core.errors import UserError
from zoo.optim.optimizers import build_optimizer
from zoo.optim.parameter_groups import decay_groups
from zoo.spec import ImageSpec

SMALL = ImageSpec(3, 32, 32, classes=tuple("0123456789"))
IMAGENET = ImageSpec(3, 224, 224, classes=tuple(map(str, range(1000))))
TORCHVISION = {
    **{name: name for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")},
    **{f"vgg{depth}-imagenet": f"vgg{depth}" for depth in (11, 13, 16, 19)},
    **{f"vgg{depth}-bn-imagenet": f"vgg{depth}_bn" for depth in (11, 13, 16, 19)},
}


def create(name: str, spec: ImageSpec = SMALL, **options):
    """A network for evaluation whose norms and biases are not at their neutral values."""
    torch.manual_seed(0)
    task = zoo.create_model(name, spec, **options).eval()
    scramble(task)
    return task


def scramble(module: nn.Module) -> None:
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.2)
                layer.running_var.uniform_(0.5, 1.5)
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_(0, 0.2)
            elif isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
                layer.bias.normal_(0, 0.2)


def images(spec: ImageSpec, n: int = 3) -> torch.Tensor:
    return torch.randn(n, *spec.shape, generator=torch.Generator().manual_seed(1))


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(make, *arguments, **options) -> nn.Module:
    """Shapes without memory."""
    with torch.device("meta"):
        return make(*arguments, **options)


def assert_same_logits(task: nn.Module, given: torch.Tensor, expected: torch.Tensor) -> None:
    with torch.no_grad():
        logits = task(given)
    assert logits.shape == expected.shape and expected.std() > 1e-3
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


# ------------------------------------------------------------------ how many parameters


@pytest.mark.parametrize(("depth", "count"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)])
def test_residual_networks_have_the_published_number_of_parameters(depth, count):
    assert parameters(on_meta(zoo.create_model, f"resnet{depth}", SMALL)) == count
    # a shortcut without parameters is what makes the plain twin as large
    assert parameters(on_meta(zoo.create_model, f"resnet{depth}", SMALL, shortcuts=False)) == count
    if depth in (20, 56):
        assert parameters(on_meta(zoo.create_model, f"plain{depth}", SMALL)) == count


@pytest.mark.parametrize(
    ("depth", "stages"),
    [(11, [64, 128, 256, 256, 512, 512, 512, 512]),
     (13, [64, 64, 128, 128, 256, 256, 512, 512, 512, 512]),
     (16, [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]),
     (19, [64, 64, 128, 128] + 4 * [256] + 8 * [512])],
)  # fmt: skip
@pytest.mark.parametrize("channels", [1, 3])
def test_small_vgg_has_the_convolutions_of_the_paper_and_one_linear_layer(depth, stages, channels):
    assert len(stages) == depth - 3
    # 3x3 weights and a bias, then scale and shift of the norm
    convolutions = sum(9 * before * after + after + 2 * after for before, after in zip([channels, *stages], stages, strict=False))
    spec = ImageSpec(channels, 32, 32, classes=tuple("0123456789"))
    assert parameters(on_meta(zoo.create_model, f"vgg{depth}", spec)) == convolutions + 512 * 10 + 10


@pytest.mark.parametrize(("name", "reference"), TORCHVISION.items())
def test_imagenet_networks_have_the_published_number_of_parameters_and_torchvisions_names(name, reference):
    task = on_meta(zoo.create_model, name, IMAGENET)
    published = {weights.meta["num_params"] for weights in torchvision.models.get_model_weights(reference)}
    assert {parameters(task)} == published
    expected = on_meta(torchvision.models.get_model, reference, weights=None).state_dict()
    ours = task.network.state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in expected.items()}


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [("softmax", {}, 3072 * 10 + 10),
     ("mlp", {"hidden_sizes": [40, 30]}, 3072 * 40 + 40 + 40 * 30 + 30 + 30 * 10 + 10),
     ("convnet", {"channels": [5, 6], "hidden_size": 7}, 27 * 5 + 5 + 45 * 6 + 6 + 8 * 8 * 6 * 7 + 7 + 7 * 10 + 10)],
)  # fmt: skip
def test_small_networks_have_as_many_parameters_as_their_layers(name, options, count):
    assert parameters(on_meta(zoo.create_model, name, SMALL, **options)) == count


# ------------------------------------------------------------------ what they compute


def norm(features, state, name):
    """Batch norm in evaluation, Ioffe and Szegedy 2015, algorithm 2."""
    mean, variance, scale, shift = (
        state[f"{name}.{key}"].view(1, -1, 1, 1) for key in ("running_mean", "running_var", "weight", "bias")
    )
    return scale * (features - mean) / torch.sqrt(variance + 1e-5) + shift


def residual_network(state, given, blocks, shortcuts):
    """He et al. 2015, section 4.2, with option A: every second pixel, and zeros for the new channels."""
    features = F.relu(norm(F.conv2d(given, state["stem.0.weight"], padding=1), state, "stem.1"))
    for stage in (1, 2, 3):
        for block in range(blocks):
            name, stride = f"stage{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            branch = F.conv2d(features, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            branch = F.relu(norm(branch, state, f"{name}.norm1"))
            branch = norm(F.conv2d(branch, state[f"{name}.conv2.weight"], padding=1), state, f"{name}.norm2")
            if shortcuts:
                if stride == 2:
                    features = features[:, :, 0::2, 0::2]
                    zeros = torch.zeros_like(features[:, : features.shape[1] // 2])
                    features = torch.cat([zeros, features, zeros], 1)
                branch = branch + features
            features = F.relu(branch)
    return features.mean(dim=(2, 3)) @ state["head.weight"].T + state["head.bias"]


@pytest.mark.parametrize(("name", "shortcuts"), [("resnet20", True), ("plain20", False)])
@pytest.mark.parametrize("spec", [SMALL, ImageSpec(1, 9, 12, classes=("a", "b"))])
def test_residual_and_plain_networks_equal_the_formula(name, shortcuts, spec):
    task = create(name, spec)
    given = images(spec)
    with torch.no_grad():
        expected = residual_network(task.state_dict(), given, blocks=3, shortcuts=shortcuts)
        other = residual_network(task.state_dict(), given, blocks=3, shortcuts=not shortcuts)
    assert_same_logits(task, given, expected)
    assert not torch.allclose(expected, other, rtol=0.1)


@pytest.mark.parametrize("channels", [1, 3])
def test_small_vgg_equals_the_layers_in_a_row(channels):
    spec = ImageSpec(channels, 32, 40, classes=tuple("01234"))
    task = create("vgg11", spec, width=6)
    layers, before = [], channels
    for item in (6, "pool", 12, "pool", 24, 24, "pool", 48, 48, "pool", 48, 48, "pool"):
        if item == "pool":
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(before, item, 3, 1, 1), nn.BatchNorm2d(item), nn.ReLU()]
            before = item
    reference = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 5)).eval()
    assert len(reference.state_dict()) == len(task.state_dict())
    reference.load_state_dict(dict(zip(reference.state_dict(), task.state_dict().values(), strict=True)))
    with torch.no_grad():
        assert_same_logits(task, images(spec), reference(images(spec)))


@pytest.mark.parametrize("spec", [SMALL, ImageSpec(1, 7, 5, classes=("a", "b", "c"))])
def test_multilayer_perceptron_equals_the_formula(spec):
    task = create("mlp", spec, hidden_sizes=[20, 15], dropout=0.5)
    features = images(spec).reshape(3, -1)
    weights = list(task.parameters())
    for weight, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        features = (features @ weight.T + bias).clamp(min=0)
    assert len(weights) == 6
    assert_same_logits(task, images(spec), (features @ weights[-2].T + weights[-1]).detach())


@pytest.mark.parametrize("spec", [SMALL, ImageSpec(1, 9, 6, classes=("a", "b", "c"))])
def test_convolutional_network_equals_the_formula(spec):
    task = create("convnet", spec, channels=[6, 8], hidden_size=11, dropout=0.5)
    weights, features = list(task.parameters()), images(spec)
    for weight, bias in zip(weights[0:4:2], weights[1:4:2], strict=True):
        features = F.max_pool2d(F.conv2d(features, weight, bias, padding=1).clamp(min=0), 2)
    hidden = (features.reshape(3, -1) @ weights[4].T + weights[5]).clamp(min=0)
    assert len(weights) == 8
    assert_same_logits(task, images(spec), (hidden @ weights[6].T + weights[7]).detach())


def test_softmax_regression_starts_at_the_loss_of_guessing_and_is_linear():
    task = zoo.create_model("softmax", SMALL)
    loss = F.cross_entropy(task(images(SMALL)), torch.tensor([0, 4, 9]))
    assert float(loss) == pytest.approx(math.log(10))
    nn.init.normal_(task.linear.weight)
    nn.init.normal_(task.linear.bias)
    templates = task.linear.weight.view(10, 3, 32, 32) / math.sqrt(3072)
    expected = torch.einsum("kchw,nchw->nk", templates, images(SMALL)) + task.linear.bias
    assert_same_logits(task, images(SMALL), expected.detach())


def test_a_larger_copy_of_the_images_changes_nothing_in_the_training_of_a_linear_classifier():
    logits = []
    for enlarged in (1, 4):
        side = 4 * enlarged
        task = zoo.create_model("softmax", ImageSpec(3, side, side, classes=tuple("01234")))
        pixels = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
        pixels = pixels.repeat_interleave(enlarged, 2).repeat_interleave(enlarged, 3)
        optimizer = build_optimizer(decay_groups(task.parameters(), task.recipe), task.recipe, task.recipe.lr)
        for _ in range(20):
            optimizer.zero_grad()
            F.cross_entropy(task(pixels), torch.arange(16) % 5).backward()
            optimizer.step()
        logits.append(task(pixels).detach())
    assert logits[0].std() > 0.1
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg11-imagenet", "vgg11-bn-imagenet"])
def test_imagenet_networks_take_torchvisions_weights_and_give_its_logits(name):
    spec = ImageSpec(3, 64, 64, classes=IMAGENET.classes)
    reference = on_meta(torchvision.models.get_model, TORCHVISION[name], weights=None).to_empty(device="cpu").eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in reference.parameters():  # faster than the normal draws of torchvision
            bound = math.sqrt(6 / parameter[0].numel()) if parameter.ndim > 1 else 0.1
            parameter.uniform_(-bound, bound)
        for key, buffer in reference.named_buffers():
            buffer.fill_(1) if "mean" not in key else buffer.fill_(0.1)
        expected = reference(images(spec, 2))
    task = on_meta(zoo.create_model, name, spec).eval()
    task.network.load_state_dict(reference.state_dict(), strict=True, assign=True)
    assert_same_logits(task, images(spec, 2), expected)


@pytest.mark.parametrize(
    ("name", "options"), [("resnet18", {"depth": 10}), ("resnet50", {"depth": 14}), ("vgg11-imagenet", {"hidden_size": 8})]
)
def test_imagenet_networks_see_gray_as_three_equal_colors(name, options):
    gray, color = ImageSpec(1, 32, 32, classes=("a", "b")), ImageSpec(3, 32, 32, classes=("a", "b"))
    task = create(name, gray, **options)
    with torch.no_grad():
        expected = task.network(images(gray).repeat(1, 3, 1, 1))
    assert_same_logits(task, images(gray), expected)
    given = images(color)
    with torch.no_grad():
        assert_same_logits(task, given, task.network(given))


@pytest.mark.parametrize("name", ["resnet20", "vgg11"])
def test_convolutions_begin_with_the_deviation_of_he_initialization(name):
    torch.manual_seed(0)
    for layer in zoo.create_model(name, SMALL).modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 20_000:
            expected = math.sqrt(2 / (9 * layer.out_channels))  # He et al. 2015b, equation 14
            assert float(layer.weight.std()) == pytest.approx(expected, rel=0.03)
            assert abs(float(layer.weight.mean())) < 0.03 * expected


@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_dropout_silences_hidden_units_in_training_alone(name):
    spec = ImageSpec(1, 16, 16, classes=("a", "b"))
    task = create(name, spec, dropout=0.5)
    with torch.no_grad():
        assert torch.equal(task(images(spec)), task(images(spec)))
        task.train()
        assert not torch.equal(task(images(spec)), task(images(spec)))


# ------------------------------------------------------------------ what they refuse


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("resnet20", {"depth": 21}, "6n"),
        ("resnet20", {"depth": 2}, "6n"),
        ("resnet20", {"width": 0}, "width"),
        ("vgg16", {"depth": 12}, "11, 13, 16, 19"),
        ("vgg16", {"width": 0}, "width"),
        ("resnet18", {"depth": 19}, "18, 34"),
        ("vgg11-imagenet", {"depth": 12}, "11, 13, 16, 19"),
        ("vgg11-imagenet", {"hidden_size": 0}, "hidden"),
        ("mlp", {"hidden_sizes": []}, "hidden"),
        ("mlp", {"hidden_sizes": [5, 0]}, "hidden"),
        ("mlp", {"dropout": 1.0}, "dropout"),
        ("convnet", {"channels": []}, "channels"),
        ("convnet", {"channels": [4, 0]}, "channels"),
        ("convnet", {"hidden_size": 0}, "hidden"),
        ("convnet", {"dropout": -0.1}, "dropout"),
        ("mlp", {"hiden": [5]}, "'hidden_sizes'"),
        ("resnet20", {"depth": "deep"}, "depth"),
    ],
)
def test_a_wrong_option_is_one_line(name, options, word):
    with pytest.raises(UserError, match=word) as error:
        zoo.create_model(name, SMALL, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "spec", "smallest"),
    [("vgg11", (1, 8, 8), 32), ("vgg11", (3, 64, 31), 32), ("vgg16-imagenet", (1, 8, 8), 32), ("resnet18", (3, 31, 64), 32),
     ("convnet", (1, 7, 8), 8)],
)  # fmt: skip
def test_images_that_are_too_small_are_refused_in_one_line_that_says_what_to_do(name, spec, smallest):
    with pytest.raises(UserError, match=f"data.size={smallest}") as error:
        zoo.create_model(name, ImageSpec(*spec, classes=("a", "b")))
    assert "\n" not in str(error.value)
    enough = ImageSpec(spec[0], smallest, smallest, classes=("a", "b"))
    assert parameters(on_meta(zoo.create_model, name, enough)) > 0


# ------------------------------------------------------------------ the hinge loss of the linear classifier


def test_the_hinge_loss_is_the_sum_over_wrong_classes():
    scores = torch.tensor([[3.0, 1.0, 2.5], [0.0, 0.0, 0.0], [-1.0, 4.0, 0.5]], dtype=torch.float64)
    labels = torch.tensor([0, 2, 1])
    task = zoo.create_model("svm", ImageSpec(1, 2, 2, classes=("a", "b", "c")))
    by_hand = [0.0 + 0.5, 1 + 1, 0.0]  # max(0, 1 - 3 + 1) + max(0, 2.5 - 3 + 1), ...
    torch.testing.assert_close(task.test_losses(scores, labels), torch.tensor(by_hand, dtype=torch.float64))
    torch.testing.assert_close(task.loss(scores, labels), torch.tensor(2.5 / 3, dtype=torch.float64))


@pytest.mark.slow
def test_a_support_vector_machine_finds_the_widest_margin():
    """Two classes on a line; with a weak penalty the boundary is half-way between the nearest of each."""
    task = zoo.create_model("svm", ImageSpec(1, 1, 1, classes=("low", "high"))).double()
    values = torch.tensor([0.1, 0.2, 0.4, 0.8, 0.9, 0.95], dtype=torch.float64).view(-1, 1, 1, 1)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    optimizer = torch.optim.SGD(task.parameters(), 0.05)
    for _ in range(20_000):
        optimizer.zero_grad()
        (task.loss(task(values), labels) + 1e-3 * task.linear.weight.square().sum()).backward()
        optimizer.step()
    (w, b) = ((p[1] - p[0]).detach() for p in (task.linear.weight, task.linear.bias))
    assert float(-b / w) == pytest.approx(0.6, abs=0.02)


def test_what_the_hinge_loss_cannot_take_is_one_line(zoo):
    assert zoo("train", "svm", "--set", "recipe.label_smoothing=0.1").is_one_line_error("label_smoothing", "hinge")
    assert zoo("train", "svm", "--set", "data.augment=mixup:0.2").is_one_line_error("data.augment", "omit mixup")
    assert zoo("train", "softmax", "--set", "recipe.loss=hing").is_one_line_error("no loss 'hing'", "'hinge'")
