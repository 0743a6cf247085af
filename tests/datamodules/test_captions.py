"""Captions of the world of shapes as a data set: words as numbers and back, and truth that is the scene's own."""

from __future__ import annotations

import pytest
import torch

from zoo.core.errors import UserError
from zoo.datamodules.shapes import ShapesCaptions
from zoo.datamodules.worlds.captions import is_true
from zoo.spec import END, PAD, START


@pytest.fixture(scope="module")
def data() -> ShapesCaptions:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShapesCaptions, "held_out", 40)
        data = ShapesCaptions(16, 0, num_images=60)
        data.setup()
    return data


def test_labels_are_the_captions_between_start_and_end(data: ShapesCaptions) -> None:
    for name, captions in (("train", 2), ("val", 5), ("test", 5)):
        split = data.splits[name]
        assert split.labels.shape == (len(split), captions, data.spec.length + 1)
        told = data.references(split.columns["image_id"])
        for of_picture, sentences in zip(split.labels.tolist(), told, strict=True):
            for row, words in zip(of_picture, sentences, strict=True):
                end = row.index(END)
                assert row[0] == START
                assert data.spec.decode(row) == words == data.spec.decode(row[1:end])
                assert set(row[end + 1 :]) <= {PAD}


def test_every_caption_is_true_of_its_picture_and_seldom_of_another(data: ShapesCaptions) -> None:
    split = data.splits["test"]
    pictures = split.columns["image_id"]
    for number in range(5):
        captions = [sentences[number] for sentences in data.references(pictures)]
        assert all(data.true_captions(pictures, captions))
        assert sum(data.true_captions(pictures.roll(1), captions)) < 4
    told = data.references(pictures[:1])[0][0]
    assert data.true_captions(pictures[:1], [told]) == [is_true(" ".join(told), data.scenes(pictures[:1])[0])]


def test_the_same_pictures_for_every_seed_in_an_order_of_its_own() -> None:
    first, second = (ShapesCaptions(16, seed, num_images=30) for seed in (0, 1))
    for one in (first, second):
        one.held_out = 5
        one.setup()
    assert torch.equal(first.splits["train"].images.pixels, second.splits["train"].images.pixels)
    batches = [next(iter(one.train_dataloader())) for one in (first, second)]
    assert not torch.equal(batches[0]["image_id"], batches[1]["image_id"])


def test_a_batch_has_no_column_that_none_of_its_captions_needs(data: ShapesCaptions) -> None:
    batch = data.on_before_batch_transfer(next(iter(data.val_dataloader())), 0)
    assert ((batch["labels"] != PAD).sum((0, 1)) > 0).all()
    assert batch["labels"].shape[2] <= data.spec.length + 1
    assert (batch["labels"] == END).sum() == 16 * 5


@pytest.mark.parametrize(
    "options",
    [{"max_objects": 0}, {"max_objects": 6}, {"num_images": 0}, {"captions_per_image": 0}, {"size": 20}, {"augment": "hflop"}],
)
def test_options_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        ShapesCaptions(16, 0, **options)
