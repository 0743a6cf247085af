"""Samples of predictions as images and texts, in the forms that trackers take."""

from __future__ import annotations

import io
from collections.abc import Iterator

from PIL import Image
from torch import Tensor

from zoo.tasks.samples import SampleImage, Samples, Turn

Media = tuple[Image.Image | None, str]


def captioned(samples: Samples) -> Iterator[Media]:
    """Each sample as an image, None for a text, and what there is to say of it, in lines."""
    for sample in samples.images:
        yield picture(sample.image), sample_caption(sample)
    for scene in samples.scenes:
        yield picture(scene.image), "\n".join([*([scene.title] if scene.title else []), *map(turn_line, scene.turns)])
    for text in samples.texts:
        yield None, f"{text.title}\n{text.text}"


def picture(image: Tensor | bytes) -> Image.Image:
    """A uint8 tensor [C, H, W], or the content of a PNG file, as a Pillow image."""
    if isinstance(image, bytes):
        return Image.open(io.BytesIO(image)).convert("RGB")
    pixels = image.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def sample_caption(sample: SampleImage) -> str:
    probability = "" if sample.probability is None else f" ({sample.probability:.0%})"
    return f"{sample.label}: predicted {sample.predicted}{probability}"


def turn_line(turn: Turn) -> str:
    expected = f" (expected: {turn.expected})" if turn.expected and turn.is_correct is not True else ""
    return f"{turn.question} {turn.answer}{expected}"
