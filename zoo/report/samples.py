"""Samples of what the network of a run predicts, which its task gives, and their images as a page embeds them."""

from __future__ import annotations

import base64
import io

import torch
from PIL import Image
from torch import Tensor

from zoo.core.download import nothing_downloaded
from zoo.core.errors import UserError, one_line
from zoo.pictures.figure import png_bytes, style
from zoo.pictures.predictions import load_trained, open_test_data
from zoo.pictures.regions import Panel, draw_regions, plane_probabilities
from zoo.registry.registry import Registry
from zoo.spec import ImageSpec
from zoo.tasks.samples import Samples, Scene
from zoo.training.run_folder import RunFolder

LARGEST, LARGEST_IN_SCENE = 112, 224  # pixels a side of an image in the page
FEW_COLORS = 256  # up to which an image is a drawing, which stays sharp as PNG


def take_samples(registry: Registry, folder: RunFolder) -> Samples:
    """Samples from the best checkpoint of a run, or the reason why there are none. Nothing is downloaded for it."""
    try:
        with nothing_downloaded(), torch.inference_mode():
            task, run = load_trained(registry, folder, "best")
            task.to("cuda" if torch.cuda.is_available() else "cpu")
            data = open_test_data(registry, run, task.spec, "", (), folder.path)
            samples = task.report_samples(data)
            if isinstance(task.spec, ImageSpec) and task.spec.are_points:
                samples.scenes = [_regions(Panel(folder.path.name, data, plane_probabilities(task)))]
            return samples
    except UserError as error:
        return Samples(missing=f"No samples: {error}.")
    except Exception as error:  # of data and networks of others: the rest of the report stands without them
        return Samples(missing=f"No samples: {type(error).__name__}: {one_line(error, 200)}.")


def _regions(panel: Panel) -> Scene:
    """The predicted class of every point of the plane."""
    with style():
        png = png_bytes(draw_regions([panel], columns=1))
    alt = f"Decision regions: test accuracy {panel.accuracy}"
    return Scene(png, alt, "The predicted class of each point, paler where the network is less confident.")


def thumbnail(image: Tensor) -> str:
    """An image, uint8 [C, H, W], as a ``data:`` address: PNG if it is small, else scaled down, as JPEG."""
    picture = _to_picture(image)
    small = max(picture.size) <= LARGEST // 2
    picture.thumbnail((LARGEST, LARGEST))
    return _encoded(picture, "png" if small else "jpeg")


def scene(image: Tensor | bytes) -> str:
    """The same for an image to look at closely: a small one is enlarged so that its pixels can be seen, a drawing is kept."""
    if isinstance(image, bytes):
        return as_address(image, "png")
    picture = _to_picture(image)
    if (times := LARGEST_IN_SCENE // max(picture.size)) > 1:
        return _encoded(picture.resize([times * side for side in picture.size], Image.Resampling.NEAREST), "png")
    if picture.getcolors(FEW_COLORS):
        return _encoded(picture, "png")
    picture.thumbnail((LARGEST_IN_SCENE, LARGEST_IN_SCENE))
    return _encoded(picture, "jpeg")


def _to_picture(image: Tensor) -> Image.Image:
    pixels = image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def _encoded(picture: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, **({"format": "PNG"} if kind == "png" else {"format": "JPEG", "quality": 80}))
    return as_address(buffer.getvalue(), kind)


def as_address(content: bytes, kind: str) -> str:
    """The content of a file, ``png`` or ``jpeg``, as a ``data:`` address."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
