"""What the network of a run says: predictions of test pictures, a text, captions. Needs its checkpoint and data."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zoo.decoding import Sampling
from zoo.errors import UserError, one_line
from zoo.fetch import nothing_downloaded
from zoo.pictures.predictions import Tested, confusion_counts, load_trained, most_confident_mistakes, open_test_data
from zoo.pictures.shown import choose_images
from zoo.registry import Registry
from zoo.spec import ImageSpec
from zoo.tasks.captioning import Captioner
from zoo.tasks.classification import Classifier
from zoo.tasks.language_modelling import LanguageModel
from zoo.training.run_folder import RunFolder
from zoo.training.writing import Writer

MOST_TESTED = 2000  # test images that are put to a classifier
SHOWN, SHOWN_MISTAKES = 12, 6
SHOWN_CAPTIONS = 8
LARGEST = 112  # pixels a side of an image in the page
LETTERS = 400
TEMPERATURES = (0.7, 1.0)


@dataclass(frozen=True)
class SampleImage:
    """A picture as a ``data:`` address, what it is, what the network says, and how sure it is (None: it does not tell)."""

    source: str
    is_right: bool | None
    label: str
    said: str
    probability: float | None = None


@dataclass
class Samples:
    """What a network says.

    Attributes:
        about: what was put to it, in a sentence.
        missing: why there is nothing, or not all, in a sentence.
        texts: what it wrote, each with how.
        counts: confusion, int64 [classes, classes].
    """

    about: str = ""
    missing: str = ""
    images: list[SampleImage] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    counts: np.ndarray | None = None


def take_samples(registry: Registry, folder: RunFolder) -> Samples:
    """Let the best checkpoint of a run speak; a run that cannot gives the reason. Nothing is downloaded for it."""
    try:
        with nothing_downloaded(), torch.inference_mode():
            return _take(registry, folder)
    except UserError as error:
        return Samples(missing=f"The network was not asked: {error}.")
    except Exception as error:  # of data and networks of others: the rest of the report stands without them
        return Samples(missing=f"The network could not be asked: {type(error).__name__}: {one_line(error, 200)}.")


def _take(registry: Registry, folder: RunFolder) -> Samples:
    task, run = load_trained(registry, folder, "best")
    task.to("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(task, LanguageModel):
        return _written(registry, folder)
    if isinstance(task, Captioner):
        shown = choose_images(registry, run, task.spec, (), "", (), SHOWN_CAPTIONS, SHOWN_CAPTIONS)
        written = task.write(task.see(shown.images.to(task.device)), task.beams)
        said = [" ".join(task.spec.decode(row)) for row in written.tolist()]
        images = [SampleImage(data_address(i), None, n, s) for i, n, s in zip(shown.images, shown.names, said, strict=True)]
        return Samples(f"Captions of {len(images)} pictures from all over the test split.", images=images)
    if isinstance(task, Classifier):
        return _classified(task, open_test_data(registry, run, task.spec, "", ()), folder)
    return Samples(missing=f"The report asks classifiers, language models and captioners; this model is for {task.task}.")


def _written(registry: Registry, folder: RunFolder) -> Samples:
    writer = Writer(registry, folder.checkpoint("best"))
    texts = []
    for temperature in TEMPERATURES:
        drawn = writer.sample("", LETTERS, 1, Sampling(temperature), seed=0)
        texts.append((f"temperature {temperature:g}", "".join(characters[0] for characters in drawn)))
    return Samples(f"{LETTERS} characters, drawn with seed 0.", texts=texts)


def _classified(task: Classifier, data: Any, folder: RunFolder) -> Samples:
    split = data.splits["test"]
    if not len(split):
        raise UserError("there are no test images")
    chosen = torch.linspace(0, len(split) - 1, min(MOST_TESTED, len(split)), dtype=torch.float64).round().long()
    parts = split.images.batches(iter(chosen.split(data.batch_size)))
    probabilities = [task.outputs({"images": images.to(task.device)}).cpu() for images in parts]
    tested = Tested(folder.path.name, task, data, split.labels[chosen], torch.cat(probabilities))
    kind = "points" if isinstance(task.spec, ImageSpec) and task.spec.are_points else "images"
    part = (
        f"all {len(split):,} test {kind}" if len(chosen) == len(split) else f"{len(chosen):,} of the {len(split):,} test {kind}"
    )
    about = f"The best checkpoint is right on {tested.accuracy:.2%} of {part}."
    samples = Samples(about, classes=task.spec.classes, counts=confusion_counts(tested))
    if kind == "points":
        samples.missing = f"Points are no pictures to look at: zoo picture regions {folder.name}"
        return samples
    wrong = most_confident_mistakes(tested)[:SHOWN_MISTAKES]
    others = torch.linspace(0, len(chosen) - 1, min(SHOWN - len(wrong), len(chosen))).round().long()
    shown = torch.tensor(list(dict.fromkeys([*wrong.tolist(), *others.tolist()])))
    best, said = tested.probabilities[shown].max(1)
    images = next(split.images.batches(iter([chosen[shown]]))).cpu()
    rows = zip(images, tested.labels[shown].tolist(), said.tolist(), best.tolist(), strict=True)
    classes = task.spec.classes
    samples.images = [SampleImage(data_address(i), true == s, classes[true], classes[s], p) for i, true, s, p in rows]
    return samples


def data_address(image: Tensor) -> str:
    """A picture, uint8 [C, H, W], as a ``data:`` address: PNG if it is small, else scaled down, as JPEG."""
    pixels = image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    small = max(picture.size) <= LARGEST // 2
    picture.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    picture.save(buffer, **({"format": "PNG"} if small else {"format": "JPEG", "quality": 80}))
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
