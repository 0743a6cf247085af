"""Pictures of attention: what is drawn are the weights that the network used, in their places, and the paper's rollout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zoo as bestiary
from zoo.core.errors import UserError
from zoo.pictures.attention import attention, attention_weights, draw_attention, patch_grid, patch_maps, rollout
from zoo.registry.registry import scan
from zoo.spec import ImageSpec
from zoo.training.building import load_task
from zoo.training.checkpoints import read_checkpoint
from zoo.training.prediction import read_named
from zoo.training.run_folder import RunFolder

WIDE = ImageSpec(1, 16, 32, classes=("a", "b"))
TINY = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
QUICK = ["--epochs", "1", "--set", "trainer.limit_train_batches=2", "--set", "trainer.accelerator=cpu"]
SMALL = [f"--set=model.{key}={value}" for key, value in TINY.items()]


def images(spec: ImageSpec, n: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (n, *spec.shape), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_the_weights_are_those_of_each_layer_in_order(pool):
    task = bestiary.create_model("vit", WIDE, global_pool=pool, **TINY).eval()
    given = images(WIDE)
    probabilities, weights = attention_weights(task, given)
    with torch.no_grad():
        assert torch.equal(probabilities, task.predict_step({"images": given}))
        features = task.embedding(task.normalize(given))
        for block, of_layer in zip(task.blocks, weights, strict=True):
            expected = block.attention.weights(block.norm1(features))
            torch.testing.assert_close(of_layer, expected)
            features = block(features)
    assert weights[0].shape == (3, 2, *[8 + (pool == "token")] * 2)
    assert not any(module._forward_pre_hooks for module in task.modules())


def test_torchvisions_network_is_watched_alike():
    """Its weights, put into a network of our own, give the same maps."""
    spec = ImageSpec(3, 32, 32, classes=("a", "b"))
    theirs = bestiary.create_model("vit-b16-imagenet", spec, **TINY).double().eval()
    ours = bestiary.create_model("vit", spec, global_pool="token", pos_embed="learned", mlp_ratio=4.0, **TINY).double().eval()
    values = dict(theirs.network.named_parameters())
    first = ["class_token", "encoder.pos_embedding", "conv_proj.weight", "conv_proj.bias"]  # the others have our order
    with torch.no_grad():
        for layer in theirs.network.encoder.layers:
            layer.self_attention.in_proj_weight.mul_(20)  # attention that is far from equal
        for parameter, name in zip(ours.parameters(), [*first, *(name for name in values if name not in first)], strict=True):
            parameter.copy_(values[name])
    (said, watched), (expected, reference) = attention_weights(theirs, images(spec)), attention_weights(ours, images(spec))
    torch.testing.assert_close(said, expected)
    assert reference[0].std() > 0.01
    for mine, other in zip(watched, reference, strict=True):
        torch.testing.assert_close(mine, other)


def test_the_rollout_is_the_papers_product():
    """Abnar and Zuidema 2020, equation 1 and the normalization before it, worked in numpy."""
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(2, 3, 5, 5, generator=generator).softmax(3) for _ in range(4)]
    rolled = rollout(weights)
    for sample in range(2):
        expected = np.eye(5)
        for of_layer in weights:
            mixed = of_layer[sample].numpy().mean(0) + np.eye(5)
            expected = (mixed / mixed.sum(1, keepdims=True)) @ expected
        np.testing.assert_allclose(rolled[sample], expected, rtol=1e-5)
    torch.testing.assert_close(rolled.sum(2), torch.ones(2, 5))


def test_a_head_that_looks_for_light_is_bright_where_the_light_is():
    """A network made by hand: channel 0 is the brightness of a patch, and the first head asks for it."""
    task = bestiary.create_model("vit", WIDE, pos_embed="learned", **{**TINY, "depth": 1}).eval()
    block = task.blocks[0]
    with torch.no_grad():
        for parameter in (task.embedding.patches.weight, task.embedding.patches.bias, task.embedding.positions,
                          block.attention.qkv.weight, block.attention.qkv.bias):  # fmt: skip
            parameter.zero_()
        task.embedding.patches.weight[0] = 1.0
        block.attention.qkv.weight[16, 0] = 1.0  # the first number of the first head's keys
        block.attention.qkv.bias[0] = 20.0  # the same of its queries
    given = torch.zeros(1, 1, 16, 32, dtype=torch.uint8)
    given[..., 8:, 16:24] = 255  # row 1, column 2
    _, weights = attention_weights(task, given)
    heads, rolled = patch_maps(weights[0], WIDE), patch_maps(rollout(weights), WIDE)
    assert heads.shape == (1, 2, 2, 4) and rolled.shape == (1, 2, 4)
    assert heads[0, 0, 1, 2] > 0.99
    torch.testing.assert_close(heads[0, 1], torch.full((2, 4), 1 / 8))
    assert rolled.argmax() == 1 * 4 + 2


def test_a_class_token_is_what_is_read_where_there_is_one():
    weights = torch.rand(9, 9)
    assert torch.equal(patch_maps(weights, WIDE), weights[0, 1:].view(2, 4))
    torch.testing.assert_close(patch_maps(weights[1:, 1:], WIDE), weights[1:, 1:].mean(0).view(2, 4))


@pytest.mark.parametrize(
    ("places", "shape", "grid"),
    [(64, (32, 32), (8, 8, False)), (65, (32, 32), (8, 8, True)), (197, (224, 224), (14, 14, True)), (8, (16, 32), (2, 4, False)),
     (2, (8, 8), (1, 1, True)), (1, (8, 8), (1, 1, False))],
)  # fmt: skip
def test_the_patches_follow_from_their_number(places, shape, grid):
    assert patch_grid(places, ImageSpec(1, *shape, classes=("a", "b"))) == grid


def test_places_that_are_no_patches_are_told():
    with pytest.raises(UserError, match="the 7 tokens .* 32x32"):
        patch_grid(7, ImageSpec(1, 32, 32, classes=("a", "b")))


def test_each_map_stands_beside_its_image_on_one_scale_that_a_bar_tells():
    pictures, maps = np.random.default_rng(0).random((2, 16, 32, 3)), np.full((2, 3, 2, 4), 1 / 8)
    maps[1, 2] = 0
    maps[1, 2, 1, 3] = 1.0
    figure = draw_attention(pictures, maps, ["one", "two"], ["head 1", "head 2", "rollout"], "heading")
    *axes, bar = figure.axes
    assert [a.get_title() for a in axes[:4]] == ["image", "head 1", "head 2", "rollout"] and len(axes) == 8
    assert [a.get_ylabel() for a in (axes[0], axes[4])] == ["one", "two"]
    assert [a.get_xlabel() for a in axes] == ["", *["1.0×"] * 3, "", "1.0×", "1.0×", "8.0×"]
    assert all(len(a.images) == 1 for a in axes), "nothing is blended"
    assert np.array_equal(axes[4].images[0].get_array(), pictures[1])
    drawn = [axes[place].images[0] for place in (1, 2, 3, 5, 6, 7)]
    for image, values in zip(drawn, maps.reshape(6, 2, 4), strict=True):
        np.testing.assert_allclose(image.get_array(), values * 8)
    scales = {(image.norm.vmin, image.norm.vmax, image.get_cmap().name) for image in drawn}
    assert len(scales) == 1 and scales.pop()[0] == 0
    assert "uniform" in bar.get_xlabel() and bar.get_xlim() == (0, drawn[0].norm.vmax)
    lines = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes[0].lines]
    assert [y for _, y in lines[:1]] == [7.5] and [x for x, _ in lines[1:]] == [7.5, 15.5, 23.5], "the borders of patches"


def test_one_bright_patch_does_not_take_the_colors_of_all_others():
    maps = np.full((1, 1, 20, 20), 1 / 400)
    maps[0, 0, 0, 0] = 1.0
    drawn = draw_attention(np.zeros((1, 20, 20, 3)), maps, ["one"], ["head 1"], "heading").axes[1].images[0]
    assert drawn.norm.vmax == 2


def test_a_run_is_drawn_over_its_own_images_and_over_files(zoo):
    assert zoo("train", "vit", *SMALL, *QUICK, "--name", "first").code == 0
    answer = zoo("picture", "attention", "first")
    assert answer.code == 0 and "first-attention.png: bright patches" in answer.out
    assert "next: zoo picture attention first --layer 1" in answer.out
    Image.new("RGB", (50, 70), "red").save("red.png")
    assert zoo("picture", "attention", "first", "red.png", "--layer", "1", "-o", "files.png").code == 0
    own, files = (Image.open(name).size for name in ("first-attention.png", "files.png"))
    assert own[0] == files[0] and own[1] > 2 * files[1]
    assert zoo("picture", "attention", "first", "--set", "data.size=32", "--checkpoint", "last").code == 0


def test_the_layer_that_is_asked_for_is_drawn_with_the_rollout_of_all(zoo):
    assert zoo("train", "vit", *SMALL, *QUICK, "--name", "first").code == 0
    Image.radial_gradient("L").save("disc.png")
    folder = RunFolder.find("first")
    task, _ = load_task(scan(), read_checkpoint(folder.best), folder.best)
    _, weights = attention_weights(task, read_named(Path("disc.png"), task.spec)[None])
    assert not torch.allclose(weights[0], weights[1])
    for layer, expected in (("1", weights[0]), ("2", weights[1]), ("", weights[1])):
        figure = attention(scan(), [folder], ["disc.png"], layer=layer).figure
        drawn = [axes.images[-1].get_array() for axes in figure.axes[1:-1]]
        maps = [*patch_maps(expected, task.spec)[0], patch_maps(rollout(weights), task.spec)[0]]
        drawn = [values / maps[0].numel() for values in drawn]
        for values, of_layer in zip(drawn, maps, strict=True):
            np.testing.assert_allclose(values, of_layer, rtol=1e-6)


def test_a_run_of_the_imagenet_network_is_drawn_too(zoo):
    assert zoo("train", "vit-b16-imagenet", *SMALL, *QUICK, "--name", "big").code == 0
    assert zoo("picture", "attention", "big").code == 0


def test_what_cannot_be_drawn_is_one_line(zoo, workplace):
    assert zoo("train", "vit", *SMALL, *QUICK, "--name", "first").code == 0
    assert zoo("train", "softmax", *QUICK, "--name", "linear").code == 0
    Path("text.png").write_text("no image")
    cases = {
        ("linear",): ["linear has no attention (softmax)", "zoo list attention"],
        ("first", "--layer", "3"): ["--layer 3", "from 1 to 2"],
        ("first", "--layer", "0"): ["--layer 0", "from 1 to 2"],
        ("first", "--layer", "last"): ["--layer last"],
        ("first", "photo.jpg"): ["photo.jpg: no such file"],
        ("first", "runs"): ["runs: is a folder, not a regular file"],
        ("first", "text.png"): ["text.png"],
        ("first", "text.png", "--data", "digits"): ["--data is for test images"],
        ("first", *["text.png"] * 25): ["25 images", "24"],
        ("first", "--data", "blobs"): ["blobs"],
        (): ["zoo picture attention RUN [IMAGE...]"],
    }
    for arguments, words in cases.items():
        answer = zoo("picture", "attention", *arguments)
        assert answer.is_one_line_error(*words), (arguments, answer)
    assert zoo("picture", "curves", "first", "--layer", "1").is_one_line_error("curves takes no --layer")
    assert [path.name for path in workplace.glob("*.png")] == ["text.png"]


def test_watching_leaves_a_network_as_it_was_even_when_it_fails():
    task = bestiary.create_model("vit", WIDE, **TINY)
    with pytest.raises(UserError, match="takes images of 1x16x32"):
        attention_weights(task, torch.zeros(1, 3, 16, 32))
    assert not any(module._forward_pre_hooks for module in task.modules())
