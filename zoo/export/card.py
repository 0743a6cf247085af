"""Model cards of exported files (Mitchell et al. 2019)."""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from zoo.config.run import Run
from zoo.core import __version__
from zoo.core.counts import how_many_trained
from zoo.core.printing import printable
from zoo.datamodules.files.formats import REMEDIES
from zoo.export.agreement import Agreement, OwnData
from zoo.export.files import CLASSES, INPUT
from zoo.export.formats import Format
from zoo.tasks.images import ImageModel
from zoo.tasks.library import LibraryModel
from zoo.tasks.outputs import Outputs
from zoo.training.exported import portable
from zoo.training.stage_plan import count_trained


@dataclass(frozen=True)
class Card:
    """The contents of a model card.

    Attributes:
        file: its name.
        library: how a library builds the network; None if the zoo alone does.
        data: the run's own test data, or the reason why it is not available.
    """

    name: str
    format: Format
    file: str
    run: Run
    task: ImageModel
    library: LibraryModel | None
    data: OwnData | str
    metrics: dict[str, float]
    license: str
    agreement: Agreement

    @cached_property
    def outputs(self) -> Outputs:
        """What the network predicts."""
        return self.task.describe_outputs()

    def text(self) -> str:
        """Render as Markdown."""
        parts = (self._what(), self._data(), self._metrics(), self._input(), self._use(), self._classes(), self._recipe())
        return "\n".join(part + "\n" for part in parts)

    def _what(self) -> str:
        parameters = how_many_trained(sum(parameter.numel() for parameter in self.task.parameters()), count_trained(self.task))
        file = printable(self.file).replace("`", "'")
        libraries = f" With {self.library.library} alone: `{self._loading()}`." if self.library else ""
        return (
            f"# {plain(self.name)}\n\n"
            f"`{file}`: {self.outputs.network}. Architecture: "
            f"`{self.run.network}`, parameters: {parameters}. Trained and exported with bestiary "
            f"{__version__}; the file is loaded by {self.format.loads}.{libraries}\n\n"
            f"License: {plain(self.license) or NOT_STATED}"
        )

    def _loading(self) -> str:
        return self.library.loading(self.task.spec.outputs, self.file) if self.library else ""

    def _data(self) -> str:
        data = self.run.data["name"]
        if root := self.run.data.get("path") or self.run.data.get("root"):
            data = f"{data} ({plain(Path(root).name)})"
        known = {} if isinstance(self.data, str) else self.data.counts
        counts = [f"{known[name]:,} {use}" for name, use in USES.items() if name in known]
        trained = f"Trained on {data}: {', '.join(counts)} images." if counts else f"Trained on {data}."
        weights = self._settings()["recipe"]["weights"]
        source = "" if weights == "pretrained" else f" from {plain(weights)}"
        pretrained = f" Initialized with pretrained weights{source}." if weights else ""
        return f"## Data\n\n{trained}{pretrained}{after(self.outputs.meaning)}"

    def _metrics(self) -> str:
        if self.metrics:
            text = "\n".join(f"| {plain(name.removeprefix('test/'))} | {value:.4f} |" for name, value in self.metrics.items())
            text = f"On the test images:\n\n| metric | value |\n|---|---|\n{text}"
        else:
            text = "These weights were not tested before the export."
        decided = "predicted classes are equal, and " if self.agreement.has_decisions else ""
        scaled = " of their standard deviation" if self.outputs.scales else ""
        return (
            f"## Metrics\n\n{text}\n\nThe file was compared with the original on {self.agreement.images}: "
            f"{decided}{self.outputs.name} differ by at most {self.agreement.difference:.1g}{scaled}."
        )

    def _input(self) -> str:
        channels, height, width = self.task.spec.shape
        order = "RGB" if channels == 3 else "grayscale" if channels == 1 else f"{channels} channels"
        gray = "colors become gray, " if channels == 1 else ""
        low, high = self.task.spec.value_range or (0, 65535)
        deep = f"gray values of more than 8 bits from {low:g} to {high:g} become 0 to 255, "
        return (
            f"## Input and output\n\n"
            f"`{INPUT}`: uint8, [N, {channels}, {height}, {width}], {order} from 0 to 255, with any batch size N. "
            "Normalization is part of the network.\n"
            f"Preprocessing: EXIF orientation is applied, {deep}transparency becomes white, {gray}{self._cropped()} "
            f"({self.task.spec.crop.interpolation}, Pillow).\n"
            "\n"
            f"`{self.outputs.name}`: float32, [N, {self.task.spec.outputs}], in the order of the {self.outputs.title.lower()} "
            "below."
            f"{after(self.outputs.about)}{self._alone()}"
        )

    def _value_range(self) -> str:
        return ", ".join(f"{value!r}" for value in self.task.spec.value_range)

    def _cropped(self) -> str:
        crop, (_, height, width) = self.task.spec.crop, self.task.spec.shape
        if crop.mode == "fit":
            return f"the largest center crop with aspect ratio {width}:{height} is resized to {width}x{height} pixels"
        sides = [round(side / crop.pct) for side in (width, height)]
        resized = (
            f"the shorter side is resized to {min(sides)}"
            if crop.mode == "center"
            else f"the image is resized to {sides[0]}x{sides[1]}"
        )
        return f"{resized} and the center of {width}x{height} pixels is cropped"

    def _alone(self) -> str:
        if not self.library:
            return ""
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (self.task.spec.mean, self.task.spec.std))
        repeated = ", repeated over three channels" if self.task.spec.channels == 1 else ""
        return (
            f" Alone, the network of {self.library.library} takes pixels divided by 255, less the mean ({mean}), divided by the "
            f"standard deviation ({std}){repeated}, and returns logits."
        )

    def _use(self) -> str:
        alone = self.library or self.format.name not in ("safetensors", "hub")
        install = "pip install pillow-heif" if alone else REMEDIES["HEIF"]
        register = ", and in the program `import pillow_heif; pillow_heif.register_heif_opener()`" if alone else ""
        return f"## Use\n\n```python\n{self.snippet()}```\n\nHEIC images need `{install}`{register}."

    def snippet(self) -> str:
        """A program that prints the outputs for photo.jpg."""
        channels, height, width = self.task.spec.shape
        names = {"file": json.dumps(self.file), "classes": CLASSES, "input": INPUT, "output": self.outputs.name}
        crop = self.task.spec.crop
        sides = [round(side / crop.pct) for side in (width, height)]
        names |= {"width": width, "height": height, "filter": crop.interpolation.upper()}
        names |= {"mode": "L" if channels == 1 else "RGB", "value_range": self._value_range() or TYPE_RANGE}
        names["drafted"] = DRAFTED.format(side=2 * max(width, height)) if crop.mode == "fit" else ""
        names["cropped"] = CROPS[crop.mode].format(**names, sides=tuple(sides), side=min(sides))
        if self.library:
            load, code = self.library.statements(self.task.spec.outputs, self.file), SNIPPETS["library"]
            names |= {
                "load": "\n".join(load),
                "library": self.library.library,
                "mean": self.task.spec.mean,
                "std": self.task.spec.std,
            }
            names["repeated"] = ".expand(-1, 3, -1, -1)" if channels == 1 else ""
            names["from_logits"] = self.outputs.from_logits
            return code.format(**names)
        return SNIPPETS[self.format.name if self.format.suffix else "safetensors"].format(**names)

    def _classes(self) -> str:
        notes = [f", {note}" for note in self.outputs.notes] or [""] * len(self.outputs.names)
        rows = zip(self.outputs.names, notes, strict=True)
        names = "\n".join(f"{place}. {plain(name)}{note}" for place, (name, note) in enumerate(rows))
        return f"## {self.outputs.title}\n\n{names}"

    def _recipe(self) -> str:
        return f"## Training\n\n```yaml\n{yaml.safe_dump(self._settings(), sort_keys=False, allow_unicode=True)}```"

    def _settings(self) -> dict[str, Any]:
        run = portable(self.run.model_dump(mode="json"))
        return {key: run[key] for key in ("model", "recipe")}


def after(sentences: str) -> str:
    """Sentences as they follow others."""
    return f" {sentences}" if sentences else ""


def plain(name: str) -> str:
    """A name that Markdown and HTML show as it is, in one line."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(printable(name), quote=False))


NOT_STATED = "not stated"
USES = {"train": "training", "val": "validation", "test": "test"}

PREPARED = """\
image = Image.open("photo.jpg")
{drafted}image = ImageOps.exif_transpose(image)
if image.mode == "F" or image.mode.startswith("I"):  # gray of more than 8 bits
    values = np.asarray(image, np.float64)
    low, high = {value_range}
    values = np.nan_to_num(np.clip((values - low) / (high - low) * 255, 0, 255))
    image = Image.fromarray(values.round().astype(np.uint8))
image = image.convert("RGBA")
image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("{mode}")
{cropped}
"""
TYPE_RANGE = '0, 65535 if image.mode != "F" else 1 if np.nanmax(values) <= 1 else 255'
DRAFTED = 'image.draft("RGB", ({side}, {side}))  # decodes a JPEG at a fraction of its size\n'
CENTERED = """
left, top = (round((side - kept) / 2) for side, kept in zip(image.size, ({width}, {height})))
image = image.crop((left, top, left + {width}, top + {height}))"""
CROPS = {
    "fit": "image = ImageOps.fit(image, ({width}, {height}), Image.Resampling.{filter})",
    "center": "sides = [{side} * side // min(image.size) for side in image.size]\n"
    "image = image.resize(sides, Image.Resampling.{filter})" + CENTERED,
    "squash": "image = image.resize({sides}, Image.Resampling.{filter})" + CENTERED,
}

SNIPPETS = {
    "library": f"""\
import json

import numpy as np
import safetensors.torch
import torch
import {{library}}
from PIL import Image, ImageOps

{PREPARED}\
{{load}}
network.eval()
with safetensors.safe_open({{file}}, framework="pt") as weights:
    classes = json.loads(weights.metadata()["{{classes}}"])
pixels = torch.from_numpy(np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)[None] / np.float32(255))
mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in ({{mean}}, {{std}}))
with torch.inference_mode():
    {{output}} = network(((pixels - mean) / std){{repeated}}){{from_logits}}[0]
for name, value in zip(classes, {{output}}.tolist()):
    print(f"{{{{name}}}}: {{{{value:.4f}}}}")
""",
    "safetensors": """\
from pathlib import Path

import torch

from zoo.datamodules.files.images import read_image
from zoo.registry.registry import scan
from zoo.training.building import load_task
from zoo.training.exported import read_exported

file = Path({file})
network, run = load_task(scan(), read_exported(file), file)
images = read_image("photo.jpg", network.spec)[None]
with torch.inference_mode():
    {output} = network.predict_step({{"images": images}})[0]
for name, value in zip(network.describe_outputs().names, {output}.tolist()):
    print(f"{{name}}: {{value:.4f}}")
""",
    "onnx": f"""\
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

{PREPARED}\
session = onnxruntime.InferenceSession({{file}})
classes = json.loads(session.get_modelmeta().custom_metadata_map["{{classes}}"])
pixels = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)[None]
{{output}} = session.run(None, {{{{"{{input}}": pixels}}}})[0][0]
for name, value in zip(classes, {{output}}):
    print(f"{{{{name}}}}: {{{{value:.4f}}}}")
""",
    "torch-export": f"""\
import json

import numpy as np
import torch
from PIL import Image, ImageOps

{PREPARED}\
kept = {{{{"{{classes}}": ""}}}}
network = torch.export.load({{file}}, extra_files=kept).module()
classes = json.loads(kept["{{classes}}"])
pixels = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)[None].copy()
with torch.inference_mode():
    {{output}} = network(torch.from_numpy(pixels))[0]
for name, value in zip(classes, {{output}}.tolist()):
    print(f"{{{{name}}}}: {{{{value:.4f}}}}")
""",
}
