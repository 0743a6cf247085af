"""What a classifier says: of test pictures or points, which classes it confuses, and which training labels look wrong to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.metrics.label_noise import label_suspects
from zoo.pictures.figure import png_bytes, style
from zoo.pictures.predictions import Predictions, confusion_counts, most_confident_mistakes
from zoo.pictures.regions import Panel, draw_regions, plane_probabilities
from zoo.report.samples.samples import (
    SampleImage,
    Samples,
    Scene,
    Trained,
    as_address,
    data_address,
    evenly_spread,
    part_of,
    require_some,
)
from zoo.tasks.classification import Classifier

MOST_TESTED = 2000  # images of a split that are put to a classifier
SHOWN, SHOWN_MISTAKES = 12, 6
SHOWN_SUSPECTS = 12
MOST_SUSPECTS = 0.3  # of the images: where more look mislabeled, it is the network that is wrong


def ask_classifier(trained: Trained) -> Samples:
    """Test images, the surest mistakes first, and training images whose labels look wrong; of points, their plane."""
    task, data = trained.task, trained.open_data()
    split = data.splits["test"]
    kind = "points" if task.spec.are_points else "images"
    require_some(split, f"test {kind}")
    chosen = evenly_spread(len(split), MOST_TESTED)
    tested = Predictions(trained.folder.path.name, task, data, split.labels[chosen], _probabilities(task, data, split, chosen))
    part = part_of(len(chosen), len(split), f"test {kind}")
    about = f"The best checkpoint is right on {tested.accuracy:.2%} of {part}."
    samples = Samples(about, classes=task.spec.classes, counts=confusion_counts(tested))
    if kind == "points":
        samples.scenes = [_regions(tested)]
        return samples
    wrong = most_confident_mistakes(tested)[:SHOWN_MISTAKES]
    others = evenly_spread(len(chosen), SHOWN - len(wrong))
    shown = torch.tensor(list(dict.fromkeys([*wrong.tolist(), *others.tolist()])))
    best, said = tested.probabilities[shown].max(1)
    images = next(split.images.batches(iter([chosen[shown]]))).cpu()
    rows = zip(images, tested.labels[shown].tolist(), said.tolist(), best.tolist(), strict=True)
    classes = task.spec.classes
    samples.images = [SampleImage(data_address(i), true == s, classes[true], classes[s], p) for i, true, s, p in rows]
    samples.about_labels, samples.suspects = look_at_labels(task, data)
    return samples


def _probabilities(task: Classifier, data: Any, split: Any, chosen: Tensor) -> Tensor:
    """Of each class for images of a split, as they are, [chosen, classes], on the CPU."""
    parts = split.images.batches(iter(chosen.split(data.batch_size)))
    return torch.cat([task.predict_step({"images": images.to(task.device)}).cpu() for images in parts])


def _regions(tested: Predictions) -> Scene:
    """The classes of all points of the plane."""
    panel = Panel(tested.run_name, tested.data, plane_probabilities(tested.task))
    with style():
        png = png_bytes(draw_regions([panel], columns=1))
    alt = f"The plane in the colors of classes: the network is right on {tested.accuracy:.1%} of the test points"
    title = "The class that each point would be given, paler where the network is less sure, and the training points."
    return Scene(as_address(png, "png"), alt, title)


def look_at_labels(task: Classifier, data: Any) -> tuple[str, list[SampleImage]]:
    """How many training labels look wrong to a network, in a sentence, and the images of the most suspicious."""
    split, classes = data.splits["train"], task.spec.classes
    chosen = evenly_spread(len(split), MOST_TESTED)
    labels, probabilities = split.labels[chosen], _probabilities(task, data, split, chosen)
    suspects, classes_said = label_suspects(labels, probabilities)
    looked = part_of(len(chosen), len(split), "training images")
    if not len(suspects):
        return f"Of {looked} none looks mislabeled to the network.", []
    if len(suspects) > MOST_SUSPECTS * len(chosen):
        return f"Of {looked}, {len(suspects):,} look mislabeled to the network: it has learned too little to judge labels.", []
    about = (
        f"Of {looked}, {len(suspects):,} look{'s' if len(suspects) == 1 else ''} mislabeled: to the network another class is "
        "likelier than the label, and at least as likely as it is in the mean of the images of that class. "
        f"{'Below are the most suspicious. ' if len(suspects) > SHOWN_SUSPECTS else ''}"
        "Look before you change a label: it may be the network that is wrong, the more so the less accurate it is."
    )
    shown, said = suspects[:SHOWN_SUSPECTS], classes_said[:SHOWN_SUSPECTS]
    places, sure = chosen[shown], probabilities[shown, said]
    images = next(split.images.batches(iter([places]))).cpu()
    rows = zip(images, labels[shown].tolist(), said.tolist(), sure.tolist(), places.tolist(), strict=True)
    return about, [
        SampleImage(data_address(image), None, classes[label], classes[other], probability, _name(data, place))
        for image, label, other, probability, place in rows
    ]


def _name(data: Any, index: int) -> str:
    """What a training image can be found by: its file, or its place in the split."""
    files = data.splits["train"].files
    if not files:
        return f"training image {index}"
    file = Path(files[index])
    return str(file.relative_to(data.root)) if data.root and file.is_relative_to(data.root) else str(file)
