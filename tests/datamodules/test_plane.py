"""Toy points, held against the geometry that their docstrings tell."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import zoo as bestiary
from zoo.config.resolution import resolve
from zoo.core.errors import UserError
from zoo.registry.registry import scan
from zoo.training import engine

REGISTRY = scan()
PLANE = sorted(name for name, entry in REGISTRY.data.items() if "points" in entry.tags)
# entries that differ only in depth have the same tiny variant: one of each is enough
IMAGE_MODELS = {name: entry for name, entry in REGISTRY.models.items() if entry.task == "classification"}
DISTINCT = {repr((e.class_name, {**e.defaults, **e.tiny})): name for name, e in IMAGE_MODELS.items()}


def ready(name: str, seed: int = 0, **options):
    data = REGISTRY.data_set(name).load()(64, seed, **options)
    data.prepare_data()
    data.setup()
    return data


def points(split) -> np.ndarray:
    """x and y of each point, in the square from -1 to 1."""
    pixels = split.images.pixels
    assert pixels.dtype == torch.uint8 and pixels.shape[1:] == (2, 1, 1)
    return (pixels.flatten(1).numpy() + 0.5) / 128 - 1


def noiseless(name: str, **options) -> tuple[np.ndarray, np.ndarray]:
    split = ready(name, noise=0.0, **options).splits["test"]
    return points(split), split.labels.numpy()


STEP = 1 / 128  # half of it is lost by rounding to a byte


def test_there_are_four_and_they_are_embedded():
    assert PLANE == ["blobs", "quadrants", "rings", "spirals"]
    assert all("offline" in REGISTRY.data_set(name).tags for name in PLANE)


@pytest.mark.parametrize("name", PLANE)
def test_points_are_shared_by_all_runs_and_training_and_test_differ(name):
    first, other = ready(name, 0), ready(name, 1)
    assert np.array_equal(points(first.splits["test"]), points(other.splits["test"]))
    assert not np.array_equal(points(first.splits["val"]), points(other.splits["val"]))
    together = [np.concatenate([points(data.splits[part]) for part in ("train", "val")]) for data in (first, other)]
    assert len(together[0]) == len(points(first.splits["test"])) == 1000
    assert sorted(map(tuple, together[0])) == sorted(map(tuple, together[1])) != sorted(map(tuple, points(first.splits["test"])))


@pytest.mark.parametrize("name", PLANE)
def test_classes_are_equally_frequent(name):
    data = ready(name, num_samples=600)
    counts = torch.bincount(data.splits["test"].labels)
    assert len(counts) == len(data.spec.classes) and (counts == 600 // len(counts)).all()


def test_blobs_lie_evenly_on_a_circle():
    places, labels = noiseless("blobs", num_classes=5)
    for label in range(5):
        angle = math.pi / 2 + 2 * math.pi * label / 5
        assert np.abs(places[labels == label] - 0.5 * np.array([math.cos(angle), math.sin(angle)])).max() <= STEP


def test_rings_are_round_and_all_around():
    places, labels = noiseless("rings", num_classes=4)
    for label in range(4):
        ring = places[labels == label]
        assert np.abs(np.hypot(*ring.T) - 0.2 * (label + 1)).max() <= STEP
        counts, _ = np.histogram(np.arctan2(*ring.T), 8, (-math.pi, math.pi))
        assert counts.min() > 10


def test_quadrants_are_exclusive_or():
    places, labels = noiseless("quadrants")
    assert np.array_equal(labels == 1, (places[:, 0] > 0) != (places[:, 1] > 0))
    quadrants = 2 * (places[:, 0] > 0) + (places[:, 1] > 0)
    assert np.bincount(quadrants).min() > 200


def test_spirals_wind_and_their_arms_are_turned_copies():
    places, labels = noiseless("spirals", num_classes=3)
    radius, angle = np.hypot(*places.T), np.arctan2(places[:, 1], places[:, 0])
    turned = angle - labels * 2 * math.pi / 3 - 4.0 * (radius - 0.1) / 0.8
    off = np.angle(np.exp(1j * turned))  # the nearest of the angles that are the same
    assert np.abs(off * radius).max() <= 6 * STEP and radius.max() > 0.85 and radius.min() < 0.15


@pytest.mark.parametrize("name", ["blobs", "rings", "spirals"])
def test_noise_is_the_deviation_as_a_share_of_the_side(name):
    clean, noisy = (points(ready(name, noise=noise, num_samples=4000).splits["test"]) for noise in (0.0, 0.02))
    difference = (noisy - clean) / 2
    assert difference.std(0) == pytest.approx([0.02, 0.02], rel=0.05) and np.abs(difference.mean(0)).max() < 0.002


def test_statistics_belong_to_the_noise_they_were_computed_with():
    for noise in (0.01, 0.2):
        data = ready("blobs", noise=noise)
        pixels = data.splits["train"].images.pixels.flatten(1).numpy() / 255
        assert data.spec.mean == pytest.approx(pixels.mean(0)) and data.spec.std == pytest.approx(pixels.std(0))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"num_classes": 1}, "data.num_classes=1"), ({"num_classes": 11}, "from 2 to 10"),
     ({"num_samples": 11}, "data.num_samples=11: must be from 12"),
     ({"num_samples": 10**12}, "1,000,000"), ({"noise": -0.1}, "data.noise=-0.1"), ({"noise": 2.0}, "data.noise=2.0"),
     ({"validation": 1.0}, "data.validation")],
)  # fmt: skip
def test_what_makes_no_points_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        ready("blobs", **options)


@pytest.mark.parametrize("name", sorted(DISTINCT.values()))
def test_every_model_trains_on_points_or_refuses_them(name):
    entry = REGISTRY.model(name)
    settings = {"model": entry.tiny, "data": {"name": "blobs"}, "recipe": {"epochs": 1, "compile": False},
                "trainer": {"accelerator": "cpu", "limit_train_batches": 1}}  # fmt: skip
    if "blobs" in REGISTRY.data_for(entry.task, entry.tags):
        assert engine.train(REGISTRY, resolve(REGISTRY, name, {}, [settings])).test["test/accuracy"] >= 0
        return
    with pytest.raises(UserError, match=f"{name} needs images, and blobs is points in the plane: data that fits:.* digits"):
        resolve(REGISTRY, name, {}, [settings])
    with pytest.raises(UserError, match="needs images, and this data is points in the plane"):
        bestiary.create_model(name, ready("blobs").spec, **entry.tiny)


def test_the_command_trains_on_points_and_refuses_to_predict_files(zoo):
    answer = zoo("train", "softmax", "--data", "blobs", "--epochs", "1", "--name", "first")
    assert answer.code == 0 and "picture regions first" in answer.out and "predict" not in answer.out
    assert zoo("predict", "first", "runs/first/run.yaml").is_one_line_error("points in the plane")
    assert zoo("train", "resnet20", "--data", "blobs").is_one_line_error("resnet20 needs images", "data that fits", "digits")
    assert "blobs" not in zoo("show", "resnet20").out and "blobs" in zoo("show", "mlp").out
