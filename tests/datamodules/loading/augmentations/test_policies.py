"""TrivialAugment and RandAugment held against the tables and operations of torchvision's transforms, and random erasing."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2._auto_augment import _AutoAugmentBase

from zoo.datamodules.loading.augmentations import policies
from zoo.datamodules.loading.augmentations.erasing import random_erasing
from zoo.datamodules.loading.augmentations.policies import BINS, OPERATIONS, SIGNED, apply_operations, magnitude_table

THEIRS = ["Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness",
          "Posterize", "Solarize", "AutoContrast", "Equalize"]  # fmt: skip
HEIGHT, WIDTH = 24, 32


def make_images(n: int, channels: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n)
    coarse = torch.rand(n, channels, 4, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bilinear")
    return (smooth * 200 + 20 * torch.rand(n, channels, HEIGHT, WIDTH, generator=generator)).to(torch.uint8)


class Drawn:
    """Stands in for the application of operations, and keeps what was drawn."""

    def __init__(self) -> None:
        self.numbers: list[torch.Tensor] = []
        self.magnitudes: list[torch.Tensor] = []

    def __call__(self, images, numbers, magnitudes):
        self.numbers.append(numbers)
        self.magnitudes.append(magnitudes)
        return images


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    monkeypatch.setattr(policies, "apply_operations", drawn := Drawn())
    return drawn


def draw(function, n: int, **arguments) -> None:
    function({"images": torch.zeros(n, 3, HEIGHT, WIDTH, dtype=torch.uint8)}, torch.Generator().manual_seed(0), **arguments)


def their_magnitudes(policy: type[_AutoAugmentBase], name: str) -> list[float]:
    """All magnitudes that torchvision draws from, with both signs where it draws one."""
    of_bins, is_signed = policy._AUGMENTATION_SPACE[name]
    values = of_bins(BINS, HEIGHT, WIDTH)
    values = [0.0] if values is None else [float(value) for value in values]
    return sorted({sign * value for value in values for sign in ((1, -1) if is_signed else (1,))})


def test_trivial_draws_operations_and_magnitudes_as_torchvision_does(drawn):
    draw(policies.trivial_augment, 60_000)
    (numbers,), (magnitudes,) = drawn.numbers, drawn.magnitudes
    assert len(OPERATIONS) == len(v2.TrivialAugmentWide._AUGMENTATION_SPACE) == len(THEIRS)
    assert stats.chisquare(numbers.bincount(minlength=14).numpy()).pvalue > 1e-3
    for number, name in enumerate(THEIRS):
        found, counts = magnitudes[numbers == number].add(0.0).unique(return_counts=True)
        assert found.tolist() == their_magnitudes(v2.TrivialAugmentWide, name)
        if number in range(1, SIGNED):  # zero has one sign
            assert len(found) == 2 * BINS - 1
            expected = torch.where(found == 0, 2.0, 1.0).double() * counts.sum() / (2 * BINS)
            assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


@pytest.mark.parametrize(("operations", "magnitude"), [(2, 9), (3, 30), (1, 1)])
def test_rand_draws_operations_of_one_magnitude_as_torchvision_does(drawn, operations, magnitude):
    draw(policies.rand_augment, 5000, operations=operations, magnitude=magnitude)
    assert len(drawn.numbers) == operations
    for numbers, magnitudes in zip(drawn.numbers, drawn.magnitudes, strict=True):
        assert stats.chisquare(numbers.bincount(minlength=14).numpy()).pvalue > 1e-3
        for number, name in enumerate(THEIRS):
            of_bins, is_signed = v2.RandAugment._AUGMENTATION_SPACE[name]
            values = of_bins(BINS, HEIGHT, WIDTH)
            value = 0.0 if values is None else float(values[magnitude])
            expected = sorted({-value, value}) if is_signed else [value]
            assert magnitudes[numbers == number].add(0.0).unique().tolist() == expected
    if operations > 1:
        together = drawn.numbers[0] * 14 + drawn.numbers[1]
        assert stats.chisquare(together.bincount(minlength=196).numpy()).pvalue > 1e-3  # independent


def test_rand_may_vary_its_magnitude_and_apply_fewer_operations_as_timm_does(drawn):
    n = 20_000
    draw(policies.rand_augment, n, operations=2, magnitude=21, deviation=1.5, probability=0.5)
    table = magnitude_table(0.3, right=150 / 331 * WIDTH, down=150 / 331 * HEIGHT, degrees=30, enhancement=0.9, dropped_bits=4)
    for numbers, magnitudes in zip(drawn.numbers, drawn.magnitudes, strict=True):
        share = (numbers == 0).double().mean()
        assert share == pytest.approx(0.5 + 0.5 / 14, abs=0.02), "left out, or the identity"
        for number in range(1, SIGNED):
            bins = torch.searchsorted(table[number], magnitudes[numbers == number].abs() - 1e-9).double()
            assert (bins.mean(), bins.std()) == (pytest.approx(21, abs=0.3), pytest.approx(1.5, abs=0.2)), number
    draw(policies.rand_augment, 500, operations=1, magnitude=30, deviation=9.0)
    assert drawn.magnitudes[-1].abs()[drawn.numbers[-1] == 5].max() == 30, "never stronger than the strongest"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("number", range(14))
def test_each_operation_at_each_magnitude_is_torchvisions(number, channels):
    name, theirs = THEIRS[number], v2.TrivialAugmentWide()
    magnitudes = torch.tensor(their_magnitudes(v2.TrivialAugmentWide, name), dtype=torch.float64)
    images = make_images(len(magnitudes), channels)
    ours = apply_operations(images, torch.full((len(images),), number), magnitudes)
    expected = torch.stack([
        theirs._apply_image_or_video_transform(image, name, value, theirs.interpolation, theirs._fill)
        for image, value in zip(images, magnitudes.tolist(), strict=True)
    ])  # fmt: skip
    difference = (ours.int() - expected.int()).abs()
    if name in ("Color", "Contrast"):  # torchvision multiplies and adds in one rounding where the processor can
        assert difference.max() <= 1 and (difference > 0).double().mean() < 0.01
    else:
        assert not difference.any()


def test_each_image_of_a_batch_gets_its_own_operation():
    images, generator = make_images(100, 3), torch.Generator().manual_seed(1)
    numbers = torch.randint(14, (100,), generator=generator)
    table = magnitude_table(shear=0.99, right=32, down=32, degrees=135, enhancement=0.99, dropped_bits=6)
    magnitudes = table[numbers, torch.randint(BINS, (100,), generator=generator)]
    together = apply_operations(images, numbers, magnitudes)
    for i in range(100):
        assert torch.equal(together[i : i + 1], apply_operations(images[i : i + 1], numbers[i : i + 1], magnitudes[i : i + 1]))


def test_a_batch_whose_images_draw_few_operations_is_complete():
    images = make_images(3, 3)
    assert torch.equal(apply_operations(images, torch.tensor([0, 0, 0]), torch.zeros(3)), images)
    assert torch.equal(policies.trivial_augment({"images": images[:0]}, torch.Generator())["images"], images[:0])


# ------------------------------------------------------------------ random erasing


@pytest.mark.parametrize(("height", "width"), [(24, 32), (10, 10)])
def test_erased_boxes_are_distributed_as_torchvisions(height, width):
    n = 3000
    images = torch.ones(n, 3, height, width, dtype=torch.uint8)
    erased = random_erasing({"images": images}, torch.Generator().manual_seed(3), probability=1)["images"] == 0
    assert (erased == erased[:, :1]).all()
    rows, columns = erased[:, 0].any(2), erased[:, 0].any(1)
    assert torch.equal(erased[:, 0], rows[:, :, None] & columns[:, None, :])  # a box
    assert (rows.int().diff(dim=1).abs().sum(1) <= 2).all() and (columns.int().diff(dim=1).abs().sum(1) <= 2).all()
    theirs = v2.RandomErasing(p=1)
    torch.manual_seed(4)
    drawn = [theirs.make_params([images[0]]) for _ in range(1000)]
    for ours, key in ((rows.sum(1), "h"), (columns.sum(1), "w"), (rows.int().argmax(1), "i"), (columns.int().argmax(1), "j")):
        assert stats.ks_2samp(ours.numpy(), [each[key] for each in drawn]).pvalue > 1e-3


def test_erasing_has_a_probability_and_leaves_alone_what_no_box_fits():
    images = torch.ones(2000, 1, 16, 16, dtype=torch.uint8)
    erased = (random_erasing({"images": images}, torch.Generator().manual_seed(0), probability=0.25)["images"] == 0).flatten(1)
    assert 0.2 < erased.any(1).double().mean() < 0.3
    tiny = torch.ones(50, 1, 1, 1, dtype=torch.uint8)
    assert random_erasing({"images": tiny}, torch.Generator().manual_seed(0), probability=1)["images"].all()
