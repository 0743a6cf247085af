"""Suspicious labels: against the definition in loops, cases worked by hand, and labels that were changed on purpose."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zoo.core.randomness import derive_seed
from zoo.datamodules.digits import Digits
from zoo.datamodules.loading.splits import ImagesInMemory, Split
from zoo.metrics.label_noise import label_suspects
from zoo.pictures.predictions import load_trained
from zoo.registry.registry import scan
from zoo.training.building import build_data
from zoo.training.run_folder import RunFolder


def by_definition(labels: list[int], probabilities: list[list[float]]) -> list[tuple[int, int]]:
    """Confident learning, section 3.1, word for word: (sample, class) in order of suspicion."""
    classes = range(len(probabilities[0]))
    threshold = {}
    for c in classes:
        own = [p[c] for p, label in zip(probabilities, labels, strict=True) if label == c]
        if own:
            threshold[c] = sum(own) / len(own)
    found = []
    for index, (label, p) in enumerate(zip(labels, probabilities, strict=True)):
        reached = [c for c in threshold if p[c] >= threshold[c]]
        if reached:
            best = max(reached, key=lambda c: p[c])
            if best != label and p[best] > p[label]:
                found.append((p[label] - p[best], index, best))
    return [(index, best) for _, index, best in sorted(found)]


def test_suspects_are_those_of_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (400,), generator=generator)
    scores = torch.randn(400, 6, generator=generator, dtype=torch.float64)
    scores[torch.arange(400), labels] += 1.5  # a class that nothing is labeled as, too
    probabilities = scores.softmax(1)
    indices, said = label_suspects(labels, probabilities)
    expected = by_definition(labels.tolist(), probabilities.tolist())
    assert 20 < len(expected) < 200
    assert list(zip(indices.tolist(), said.tolist(), strict=True)) == expected


def test_a_case_by_hand() -> None:
    # thresholds: (0.9 + 0.6 + 0.1) / 3 = 0.53 and (0.8 + 0.3 + 0.48) / 3 = 0.53
    first = torch.tensor([0.9, 0.6, 0.1, 0.2, 0.7, 0.52])
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    indices, said = label_suspects(labels, torch.stack([first, 1 - first], 1))
    # the sample of 0.9 against 0.1 before that of 0.7 against 0.3; 0.52 is wrong, but below the threshold
    assert indices.tolist() == [2, 4] and said.tolist() == [1, 0]


def test_nothing_is_suspicious_where_the_network_agrees() -> None:
    labels = torch.tensor([0, 1, 2, 1])
    indices, said = label_suspects(labels, torch.eye(3)[labels] * 0.7 + 0.1)
    assert indices.numel() == said.numel() == 0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[3\] and \[2, 2\]"):
        label_suspects(torch.zeros(3, dtype=torch.int64), torch.ones(2, 2))


def changed(labels: Tensor, classes: int, share: float) -> tuple[Tensor, Tensor]:
    """Labels of which a share is another class than it was, and which those are, bool [N]."""
    generator = torch.Generator().manual_seed(derive_seed(0, "changed"))
    wrong = torch.rand(len(labels), generator=generator) < share
    shift = torch.randint(1, classes, labels.shape, generator=generator)
    return torch.where(wrong, (labels + shift) % classes, labels), wrong


def test_most_suspects_are_labels_that_were_changed(zoo, monkeypatch) -> None:
    planted = {}
    read = Digits.load_splits

    def read_with_wrong_labels(self: Digits) -> dict[str, Split]:
        splits = read(self)
        labels, wrong = changed(splits["train"].labels, 10, 0.05)
        # which ones is told by their pictures: the split is divided after this
        planted.update({picture.numpy().tobytes(): bool(w) for picture, w in zip(_pixels(splits["train"]), wrong, strict=True)})
        return {**splits, "train": Split(splits["train"].images, labels)}

    monkeypatch.setattr(Digits, "load_splits", read_with_wrong_labels)
    assert zoo("train", "mlp", "--epochs", "6", "--name", "noisy").code == 0
    registry = scan()
    task, run = load_trained(registry, RunFolder.find("noisy"), "best")
    train = build_data(registry, run).splits["train"]
    with torch.inference_mode():
        probabilities = task.predict_step({"images": _pixels(train)})
    indices, _ = label_suspects(train.labels, probabilities)
    is_planted = torch.tensor([planted[picture.numpy().tobytes()] for picture in _pixels(train)])
    found = is_planted[indices]
    assert found.double().mean() > 0.9 and found.sum() > 0.5 * is_planted.sum()
    assert found[:12].all()  # as many as a report shows


def _pixels(split: Split) -> Tensor:
    assert isinstance(split.images, ImagesInMemory)
    return split.images.pixels
