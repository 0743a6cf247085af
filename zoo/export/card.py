"""The model card: what somebody must know who finds an exported file without anyone to ask (Mitchell et al. 2019)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import yaml

from zoo.config.recipe import Run
from zoo.export.agreement import Agreement
from zoo.export.files import CLASSES, INPUT
from zoo.export.formats import Format
from zoo.tasks.classification import Classifier


@dataclass(frozen=True)
class Card:
    """All that the card of one file tells."""

    name: str
    format: Format
    path: Path
    run: Run
    task: Classifier
    counts: dict[str, int]
    metrics: dict[str, float]
    license: str
    agreement: Agreement

    def text(self) -> str:
        """The card, in Markdown."""
        parts = (self._what(), self._data(), self._metrics(), self._input(), self._use(), self._classes(), self._recipe())
        return "\n".join(part + "\n" for part in parts)

    def _what(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.task.parameters())
        return (
            f"# {self.name}\n\n"
            f"`{self.path.name}`: a network that sorts images into {len(self.task.spec.classes)} classes. It is a "
            f"`{self.run.network}` with {parameters:,} parameters, trained and exported by bestiary "
            f"{metadata.version('bestiary')}. The file is loaded by {self.format.loads}.\n\n"
            f"License: {self.license}"
        )

    def _data(self) -> str:
        data = self.run.data["name"]
        if root := self.run.data.get("root"):
            data = f"{data} ({Path(root).name})"
        counts = [f"{self.counts[name]:,} for {use}" for name, use in USES.items() if name in self.counts]
        learned = f"Trained on {data}: images {', '.join(counts)}." if counts else f"Trained on {data}."
        weights = self.run.recipe.weights
        source = f"{self.run.network} as pretrained" if weights == "pretrained" else weights
        began = f" It began from the weights of {source}." if weights else ""
        return f"## Data\n\n{learned}{began} It knows no other class: any image is given one of these."

    def _metrics(self) -> str:
        if self.metrics:
            told = "\n".join(f"| {name.removeprefix('test/')} | {value:.4f} |" for name, value in self.metrics.items())
            told = f"On the test images, which were not trained on:\n\n| metric | value |\n|---|---|\n{told}"
        else:
            told = "How good these weights are on test images was not measured when they were exported."
        return (
            f"## Metrics\n\n{told}\n\nThe file was held against the original on {self.agreement.images}, alone and together: the "
            f"likeliest class is the same, and probabilities differ by at most {self.agreement.difference:.1g}."
        )

    def _input(self) -> str:
        channels, height, width = self.task.spec.shape
        order = "red, green, blue" if channels == 3 else "gray" if channels == 1 else f"{channels} channels"
        gray = " and then made gray" if channels == 1 else ""
        return (
            f"## Input and output\n\n"
            f"`{INPUT}`: uint8, [N, {channels}, {height}, {width}], values from 0 to 255, {order}; N is any number. "
            "The network normalizes them itself.\n"
            "An image is turned upright by its EXIF orientation, transparent parts become white, the largest box in its middle "
            f"that has the proportions {width}:{height} is scaled to {width}x{height} pixels (Pillow's bilinear filter){gray}.\n"
            "\n"
            f"`probabilities`: float32, [N, {len(self.task.spec.classes)}], in the order of the classes below."
        )

    def _use(self) -> str:
        return f"## Use\n\n```python\n{self.snippet()}```"

    def snippet(self) -> str:
        """A program that says what is in photo.jpg."""
        channels, height, width = self.task.spec.shape
        gray = '.convert("L")' if channels == 1 else ""
        names = {"file": json.dumps(self.path.name), "classes": CLASSES, "input": INPUT}
        return SNIPPETS[self.format.name].format(**names, width=width, height=height, gray=gray)

    def _classes(self) -> str:
        names = "\n".join(f"{place}. {name}" for place, name in enumerate(self.task.spec.classes))
        return f"## Classes\n\n{names}"

    def _recipe(self) -> str:
        settings = {"model": self.run.model, "recipe": self.run.recipe.model_dump(mode="json")}
        return f"## How it was trained\n\n```yaml\n{yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)}```"


USES = {"train": "training", "val": "validation", "test": "testing"}  # of the images in a split

PREPARED = """\
image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGBA")
image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
image = ImageOps.fit(image, ({width}, {height}), Image.Resampling.BILINEAR){gray}
"""

SNIPPETS = {
    "safetensors": """\
from pathlib import Path

import torch

from zoo.datamodules.files.images import read_image
from zoo.registry.registry import scan
from zoo.training.building import load_task
from zoo.training.exported import read_exported

file = Path({file})
network, run = load_task(scan(), read_exported(file), file)
images = read_image("photo.jpg", *network.spec.shape)[None]
with torch.inference_mode():
    probabilities = network.predict_step({{"images": images}})[0]
for name, probability in zip(network.spec.classes, probabilities.tolist()):
    print(f"{{name}}: {{probability:.4f}}")
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
probabilities = session.run(None, {{{{"{{input}}": pixels}}}})[0][0]
for name, probability in zip(classes, probabilities):
    print(f"{{{{name}}}}: {{{{probability:.4f}}}}")
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
    probabilities = network(torch.from_numpy(pixels))[0]
for name, probability in zip(classes, probabilities.tolist()):
    print(f"{{{{name}}}}: {{{{probability:.4f}}}}")
""",
}
