"""Splits, statistics, order, sharding and batches, held against numpy, torchvision, Pillow and counting."""

from __future__ import annotations

import re

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import StratifiedKFold
from torchvision.transforms.v2 import functional as vision

from zoo.core.errors import UserError
from zoo.datamodules.bases.classification import ClassificationData
from zoo.datamodules.loading.held_out import fold_by_class, split_by_class, split_by_name
from zoo.datamodules.loading.pixels import channel_statistics, resize
from zoo.datamodules.loading.splits import ImageLoader, ImagesInMemory, Split
from zoo.spec import IGNORE, ImageSpec


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def numbered(n: int) -> Split:
    """Images that show their number, which is also their label."""
    numbers = torch.arange(n)
    return Split(ImagesInMemory((numbers % 256).to(torch.uint8).view(n, 1, 1, 1)), numbers)


LABELS = (torch.arange(50) * 3 // 40).clamp(max=2)  # sorted, so that the labels of two splits may be the same


class Noise(ClassificationData):
    """Forty training and ten test images of three classes."""

    def __init__(self, root="here", seed=0, size=0, augment="none", validation=0.25, pixels=0):
        super().__init__(4, seed, root=root, size=size, augment=augment, validation=validation)
        self.pixels = pixels

    def build_spec(self):
        return ImageSpec(3, 6, 4, classes=("a", "b", "c"))

    def load_splits(self):
        images = torch.from_numpy(random_pixels(50, 3, 6, 4, seed=self.pixels))
        everything = Split(ImagesInMemory(images), LABELS)
        return {"train": everything.subset(torch.arange(40)), "test": everything.subset(torch.arange(40, 50))}


def ready(**options) -> Noise:
    data = Noise(**options)
    data.prepare_data()
    data.setup()
    return data


# ------------------------------------------------------------------ statistics


def test_statistics_equal_numpy_in_double_precision():
    pixels = random_pixels(2500, 3, 5, 7)  # more than one block
    pixels[:, 1] //= 4
    pixels[:, 2] = 200 + pixels[:, 2] // 8
    scaled = pixels.astype(np.float64) / 255
    mean, std = channel_statistics(ImagesInMemory(torch.from_numpy(pixels)))
    np.testing.assert_allclose(mean, scaled.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std((0, 2, 3)), rtol=1e-12)


def test_a_constant_channel_has_unit_deviation():
    pixels = torch.full((3, 2, 4, 4), 51, dtype=torch.uint8)
    pixels[0, 1] = 0
    mean, std = channel_statistics(ImagesInMemory(pixels))
    assert mean == pytest.approx((0.2, 0.2 * 2 / 3)) and std[0] == 1 and 0 < std[1] < 1


def test_the_spec_holds_the_statistics_of_the_training_images_alone():
    data = ready()
    scaled = data.splits["train"].images.pixels.numpy().astype(np.float64) / 255
    assert len(scaled) < 40
    np.testing.assert_allclose(data.spec.mean, scaled.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(data.spec.std, scaled.std((0, 2, 3)), rtol=1e-12)


def test_statistics_are_computed_once_and_kept(monkeypatch):
    first = ready().spec
    with monkeypatch.context() as patch:
        patch.setattr("zoo.datamodules.bases.images.channel_statistics", lambda images: pytest.fail("computed again"))
        assert ready().spec == first
    # other images, another split and another size have statistics of their own
    for options in ({"root": "there", "pixels": 1}, {"seed": 1}, {"validation": 0.5}, {"size": 5}):
        data = ready(**options)
        scaled = data.splits["train"].images.pixels.numpy().astype(np.float64) / 255
        np.testing.assert_allclose(data.spec.mean, scaled.mean((0, 2, 3)), rtol=1e-12)


@pytest.mark.parametrize("content", ["", "{", "{}", "null", '{"mean": 1, "std": 2}'])
def test_a_damaged_cache_is_computed_again(home, content):
    expected = ready().spec
    (kept,) = (home / "statistics").iterdir()
    kept.write_text(content)
    assert ready().spec == expected


def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch, tmp_path):
    expected = ready().spec
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "file" / "below"))
    assert ready().spec == expected


# ------------------------------------------------------------------ splits


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.9])
def test_split_by_class_is_stratified_disjoint_and_covering(share):
    labels = torch.from_numpy(np.random.default_rng(0).choice(5, 400, p=[0.5, 0.3, 0.15, 0.04, 0.01]))
    taken, rest = split_by_class(labels, share, seed=7)
    assert sorted([*taken.tolist(), *rest.tolist()]) == list(range(400))
    assert taken.tolist() == sorted(taken.tolist()) and rest.tolist() == sorted(rest.tolist())
    for label in range(5):
        members = int((labels == label).sum())
        count = int((labels[taken] == label).sum())
        assert members > 1 and abs(count - share * members) < 1
        assert count < members and (count > 0) == (share > 0)


def test_split_by_class_leaves_a_single_image_for_training():
    taken, rest = split_by_class(torch.tensor([0, 1, 1, 2]), 0.9, seed=0)
    assert 0 in rest and 3 in rest and len(taken) == 1


def test_split_by_class_follows_from_the_seed_alone():
    labels = torch.arange(300) % 3
    first = split_by_class(labels, 0.3, seed=1)[0]
    torch.manual_seed(42)
    assert torch.equal(first, split_by_class(labels, 0.3, seed=1)[0])
    other = split_by_class(labels, 0.3, seed=2)[0]
    assert not torch.equal(first, other) and len(first) == len(other)
    assert not torch.equal(first, torch.arange(len(first)))


def test_files_are_held_out_by_name_uniformly_and_independently_of_other_seeds():
    names = [f"cat/{index}.jpg" for index in range(4000)]
    taken, rest = split_by_name(names, 0.2, 1, "photos")
    assert sorted([*taken.tolist(), *rest.tolist()]) == list(range(4000))
    assert len(taken) == pytest.approx(800, abs=4 * (4000 * 0.2 * 0.8) ** 0.5)
    assert set(taken.tolist()) < set(split_by_name(names, 0.3, 1, "photos")[0].tolist())
    both = len(set(taken.tolist()) & set(split_by_name(names, 0.2, 2, "photos")[0].tolist()))
    assert both == pytest.approx(160, abs=4 * 160**0.5)
    forms = ([f"{letter}{index}" for index in range(99)] for letter in ("\u00e9", "e\u0301"))
    composed, decomposed = (split_by_name(form, 0.5, 1, "photos") for form in forms)
    assert torch.equal(composed[0], decomposed[0])


@pytest.mark.parametrize("names", [["a", "b", "c"], [f"{index}.png" for index in range(12)]])
def test_the_share_that_is_advised_holds_one_out(names: list[str]) -> None:
    with pytest.raises(UserError, match="photos: none of .* by data.test=1e-09") as error:
        split_by_name(names, 1e-9, 0, "photos", "data.test")
    share = float(re.search(r"data.test=(0.\d+) holds", str(error.value))[1])
    assert len(split_by_name(names, share, 0, "photos", "data.test")[0])
    with pytest.raises(UserError, match="none of .* is left for training by data.test=0.99999"):
        split_by_name(names, 0.999999999, 0, "photos", "data.test")


@pytest.mark.parametrize("folds", [2, 5])
def test_folds_are_disjoint_cover_everything_and_hold_each_class_evenly(folds):
    labels = torch.from_numpy(np.random.default_rng(0).choice(4, 401, p=[0.6, 0.3, 0.07, 0.03]))
    parts = [fold_by_class(labels, fold, folds, seed=3) for fold in range(1, folds + 1)]
    assert sorted(index for held_out, _ in parts for index in held_out.tolist()) == list(range(401))
    for held_out, rest in parts:
        assert sorted([*held_out.tolist(), *rest.tolist()]) == list(range(401))
        assert held_out.tolist() == sorted(held_out.tolist()) and rest.tolist() == sorted(rest.tolist())
        for label in range(4):
            members = int((labels == label).sum())
            assert abs(int((labels[held_out] == label).sum()) - members / folds) < 1
    torch.manual_seed(42)
    np.random.seed(42)
    assert torch.equal(fold_by_class(labels, 1, folds, seed=3)[0], parts[0][0]), "the seed alone decides"
    assert not torch.equal(fold_by_class(labels, 1, folds, seed=4)[0], parts[0][0])


@pytest.mark.parametrize(("samples", "classes", "folds"), [(1797, 10, 5), (100, 3, 2), (57, 4, 7)])
def test_folds_are_those_of_scikit_learn(samples: int, classes: int, folds: int) -> None:
    labels = torch.randint(0, classes, (samples,), generator=torch.Generator().manual_seed(folds)) * 3 - 1
    for seed in (0, 2**40 + 7):
        expected = StratifiedKFold(folds, shuffle=True, random_state=seed % 2**32).split(labels, labels)
        for fold, (rest, held_out) in enumerate(expected, 1):
            ours = fold_by_class(labels, fold, folds, seed)
            assert np.array_equal(ours[0], held_out) and np.array_equal(ours[1], rest)


def test_a_data_set_gives_any_fold_of_its_training_images():
    everything = random_pixels(50, 3, 6, 4)[:40].reshape(40, -1).tolist()
    parts = [ready(validation=f"{fold}/3").splits for fold in (1, 2, 3)]
    assert sorted(image for part in parts for image in part["val"].images.pixels.flatten(1).tolist()) == sorted(everything)
    for part in parts:
        together = torch.cat([part[name].images.pixels for name in ("train", "val")]).flatten(1).tolist()
        assert sorted(together) == sorted(everything) and len(part["test"]) == 10
    assert len(ready(validation="2.5e-1").splits["val"]) == len(ready(validation=0.25).splits["val"])


def test_the_statistics_of_each_fold_are_those_of_its_own_training_images():
    for fold in (1, 2, 3):
        data = ready(validation=f"{fold}/3")
        scaled = data.splits["train"].images.pixels.numpy().astype(np.float64) / 255
        np.testing.assert_allclose(data.spec.mean, scaled.mean((0, 2, 3)), rtol=1e-12)


def test_there_are_no_folds_where_validation_images_are_given_or_a_class_is_too_small():
    class WithValidation(Noise):
        def load_splits(self):
            return {**super().load_splits(), "val": numbered(7)}

    with pytest.raises(UserError, match="its own validation split"):
        WithValidation(validation="1/2").setup()
    with pytest.raises(UserError, match="only 13 images"):
        Noise(validation="1/14").setup()


def test_validation_is_cut_from_the_training_images_and_the_test_images_stay():
    data, other = ready(), ready(seed=1)
    everything = random_pixels(50, 3, 6, 4)
    together = torch.cat([data.splits[name].images.pixels for name in ("train", "val")]).flatten(1).tolist()
    assert sorted(together) == sorted(everything[:40].reshape(40, -1).tolist())
    for module in (data, other):
        assert np.array_equal(module.splits["test"].images.pixels, everything[40:])
    assert not torch.equal(data.splits["val"].images.pixels, other.splits["val"].images.pixels)
    assert torch.bincount(data.splits["val"].labels).tolist() == [4, 3, 3]  # a quarter of 14, 13 and 13, rounded


def test_labels_stay_with_their_images():
    everything = random_pixels(50, 3, 6, 4)
    for split in ready(validation=0.5).splits.values():
        for image, label in zip(split.images.pixels.numpy(), split.labels, strict=True):
            assert LABELS[(everything == image).all((1, 2, 3)).nonzero()[0][0]] == label


def test_a_split_that_the_data_set_brings_is_used():
    class WithValidation(Noise):
        def load_splits(self):
            return {**super().load_splits(), "val": numbered(7)}

    data = WithValidation()
    data.setup()
    assert len(data.splits["train"]) == 40 and len(data.splits["val"]) == 7


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"validation": 1.0}, "validation"),
        ({"validation": -0.1}, "validation"),
        ({"validation": "nan"}, "validation"),
        ({"validation": "half"}, "a fold, as in 2/5"),
        ({"validation": "0/5"}, "1/5 to 5/5"),
        ({"validation": "6/5"}, "1/5 to 5/5"),
        ({"validation": "1/1"}, "at least two"),
        ({"size": -1}, "size"),
        ({"augment": "crp"}, "crop"),
    ],
)
def test_wrong_options_are_one_line(options, word):
    with pytest.raises(UserError, match=word) as error:
        Noise(**options)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------ size


@pytest.mark.parametrize(("shape", "size"), [((300, 1, 8, 8), 32), ((4, 3, 40, 30), 16), ((4, 3, 13, 17), 17)])
def test_resize_equals_torchvision_and_pillow(shape, size):
    pixels = torch.from_numpy(random_pixels(*shape))
    scaled = resize(pixels, size)
    expected = vision.resize(pixels.double(), [size, size], antialias=True)
    assert scaled.dtype == torch.uint8 and scaled.shape == (*shape[:2], size, size)
    assert (scaled.double() - expected).abs().max() <= 0.5 + 1e-3  # the nearest whole number
    for index in (0, shape[0] - 1):
        pillow = Image.fromarray(pixels[index, 0].numpy()).resize((size, size), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(pillow).astype(int) - scaled[index, 0].numpy().astype(int)).max() <= 1


def test_size_changes_spec_and_images():
    data = Noise(size=9)
    assert data.spec.shape == (3, 9, 9)
    data.setup()
    assert data.spec.shape == (3, 9, 9)
    for split in data.splits.values():
        assert split.images.pixels.shape[1:] == (3, 9, 9)
    original = torch.from_numpy(random_pixels(50, 3, 6, 4))[40:]
    assert torch.equal(data.splits["test"].images.pixels, resize(original, 9))


def test_facts_are_what_is_there():
    facts = ready().summarize()
    assert facts["shape"] == [3, 6, 4] and facts["classes"] == ["a", "b", "c"]
    assert (facts["train_images"], facts["val_images"], facts["test_images"]) == (30, 10, 10)


# ------------------------------------------------------------------ order


def epoch_of(split, batch_size, world, epoch, seed=3):
    """The batches of each process in one epoch of training."""
    return [
        list(ImageLoader(split, batch_size, seed, rank=rank, world=world, position=lambda: (epoch, 0))) for rank in range(world)
    ]


@pytest.mark.parametrize(("n", "batch_size"), [(23, 4), (24, 4), (300, 7), (5, 8), (7, 8), (3, 1)])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_an_epoch_of_training_sees_no_image_twice_and_leaves_less_than_a_batch(n, batch_size, world):
    split = numbered(n)
    orders = []
    for epoch in range(3):
        ranks = epoch_of(split, batch_size, world, epoch)
        seen = [number for batches in ranks for batch in batches for number in batch["labels"].tolist()]
        assert len(seen) == len(set(seen)) > 0
        size = min(batch_size, n // world)
        assert n - len(seen) < size * world
        for rank, batches in enumerate(ranks):
            assert len(batches) == len(ImageLoader(split, batch_size, 3, rank=rank, world=world)) == n // (size * world)
            assert all(len(batch["labels"]) == size for batch in batches)
            assert all(torch.equal(batch["images"].flatten(), batch["labels"] % 256) for batch in batches[:256])
        orders.append(seen)
    assert n < 8 or len({tuple(order) for order in orders}) == 3


def test_what_fills_no_batch_changes_from_epoch_to_epoch():
    left = [
        set(range(23)) - {number for batch in epoch_of(numbered(23), 4, 1, epoch)[0] for number in batch["labels"].tolist()}
        for epoch in range(40)
    ]
    assert set().union(*left) == set(range(23))


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_starting_inside_an_epoch_equals_skipping(world, first):
    split = numbered(41)
    for rank, whole in enumerate(epoch_of(split, 4, world, epoch=5)):
        started = list(ImageLoader(split, 4, 3, rank=rank, world=world, position=lambda: (5, first)))
        assert len(started) == len(whole) - first
        for one, other in zip(started, whole[first:], strict=True):
            assert torch.equal(one["images"], other["images"]) and torch.equal(one["labels"], other["labels"])
            assert one["seed"] == other["seed"]


def test_order_follows_from_the_seed_and_not_from_what_was_drawn_before():
    split = numbered(50)
    first = epoch_of(split, 5, 1, 0)[0]
    torch.manual_seed(11)
    again, other = epoch_of(split, 5, 1, 0)[0], epoch_of(split, 5, 1, 0, seed=4)[0]
    assert all(torch.equal(a["labels"], b["labels"]) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a["labels"], b["labels"]) for a, b in zip(first, other, strict=True))


def test_every_batch_is_augmented_by_a_seed_of_its_own():
    seeds = [batch["seed"] for epoch in range(4) for batches in epoch_of(numbered(60), 4, 3, epoch) for batch in batches]
    assert len(seeds) == len(set(seeds)) == 4 * 3 * 5


def test_the_order_is_asked_for_when_the_epoch_begins():
    position = [(0, 0)]
    loader = ImageLoader(numbered(40), 4, seed=3, position=lambda: position[0])
    iterator = iter(loader)
    position[0] = (2, 0)
    assert torch.equal(next(iterator)["labels"], epoch_of(numbered(40), 4, 1, 2)[0][0]["labels"])


# ------------------------------------------------------------------ evaluation


@pytest.mark.parametrize(("n", "batch_size"), [(10, 4), (12, 4), (3, 4), (300, 7), (1, 1), (0, 4)])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_evaluation_sees_each_image_once_in_the_same_batches_on_any_number_of_processes(n, batch_size, world):
    split = numbered(n)
    loaders = [ImageLoader(split, batch_size, rank=rank, world=world) for rank in range(world)]
    ranks = [list(loader) for loader in loaders]
    assert len({len(batches) for batches in ranks}) == 1  # sharded networks need all in step
    assert all(len(loader) == len(batches) for loader, batches in zip(loaders, ranks, strict=True))
    real = []
    for turn in range(len(ranks[0])):
        for batches in ranks:
            batch = batches[turn]
            assert "seed" not in batch and len(batch["images"]) == len(batch["labels"]) > 0
            if (batch["labels"] != IGNORE).all():
                assert torch.equal(batch["images"].flatten(), (batch["labels"] % 256).to(torch.uint8))
                real.append(batch["labels"].tolist())
            else:
                assert (batch["labels"] == IGNORE).all()
    assert real == [list(range(start, min(start + batch_size, n))) for start in range(0, n, batch_size)]


def test_the_label_to_ignore_is_the_one_of_torch():
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, IGNORE])
    loss = torch.nn.functional.cross_entropy(logits, labels)
    assert torch.equal(loss, torch.nn.functional.cross_entropy(logits[:3], labels[:3]))


# ------------------------------------------------------------------ under a trainer


class Recorder(L.LightningModule):
    """Takes down every batch that a trainer hands over."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(("train", self.current_epoch, batch))
        return self.weight * 0

    def validation_step(self, batch, batch_idx):
        self.seen.append(("val", self.current_epoch, batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_under_a_trainer_each_epoch_begins_at_its_first_batch_and_only_training_is_augmented():
    data, recorder = ready(augment="crop:2"), Recorder()
    L.Trainer(barebones=True, accelerator="cpu", max_epochs=3, limit_val_batches=1.0).fit(recorder, data)
    augmented = 0
    for stage, split in (("train", data.splits["train"]), ("val", data.splits["val"])):
        for epoch in range(3):
            seen = [batch for kind, at, batch in recorder.seen if kind == stage and at == epoch]
            expected = list(ImageLoader(split, 4, 0 if stage == "train" else None, position=lambda epoch=epoch: (epoch, 0)))
            assert len(seen) == len(expected) > 0
            for batch, other in zip(seen, expected, strict=True):
                assert torch.equal(batch["labels"], other["labels"])
                if stage == "val":
                    assert torch.equal(batch["images"], other["images"])
                else:
                    augmented += int(not torch.equal(batch["images"], other["images"]))
    assert augmented > 3 * 5
