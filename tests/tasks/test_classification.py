"""The classification task held against torch, torchvision, scikit-learn and a training loop written by hand."""

from __future__ import annotations

import itertools
import warnings

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers.logger import Logger
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss, top_k_accuracy_score
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as vision

import zoo
from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.spec import IGNORE, ImageSpec

MEAN, STD = (0.2, 0.5, 0.7), (0.1, 0.3, 0.25)


def spec_with(classes: int, height: int = 6, width: int = 5) -> ImageSpec:
    return ImageSpec(3, height, width, classes=tuple(f"class {i}" for i in range(classes)), mean=MEAN, std=STD)


def make_task(classes: int = 4, **recipe):
    """Softmax regression with random weights, small enough to be worked by hand."""
    torch.manual_seed(0)
    task = zoo.create_model("softmax", spec_with(classes), Recipe(**{"epochs": 1, "batch_size": 4, **recipe}))
    nn.init.normal_(task.linear.weight, std=0.2)
    nn.init.normal_(task.linear.bias)
    return task


def make_batch(n: int, classes: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 3, 6, 5), generator=generator, dtype=torch.uint8)
    return {"images": images, "labels": torch.randint(0, classes, (n,), generator=generator)}


def logits_by_hand(linear: nn.Linear, images: torch.Tensor) -> torch.Tensor:
    scaled = vision.normalize(images.float() / 255, MEAN, STD).flatten(1)
    return scaled @ linear.weight.T / scaled.shape[1] ** 0.5 + linear.bias


class Records(Logger):
    """Keeps what is logged, as the zoo's own logger does."""

    is_exact = True

    name, version = "records", ""

    def __init__(self):
        super().__init__()
        self.records = []

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        self.records.append({**metrics, "step": step})


def make_trainer(**options) -> L.Trainer:
    warnings.filterwarnings("ignore", module="lightning")
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(accelerator="cpu", num_sanity_val_steps=0, **{"logger": False, **quiet, **options})


def loader(batches: list[dict[str, torch.Tensor]]) -> DataLoader:
    """These batches as they are; Lightning would take a list for several loaders."""
    return DataLoader(batches, batch_size=None)


# ------------------------------------------------------------------ input


@pytest.mark.parametrize("name", ["softmax", "convnet"])  # of the two layouts
@pytest.mark.parametrize("floating", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pixels_are_normalized_as_by_torchvision_and_left_as_they_are(name, floating, layout):
    task = zoo.create_model(name, spec_with(4, 8, 8))
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8).contiguous(memory_format=layout)
    images = images + 0.25 if floating else images
    before = images.clone()
    normalized = task.normalize(images)
    torch.testing.assert_close(normalized, vision.normalize(before.float() / 255, MEAN, STD), rtol=1e-5, atol=1e-5)
    assert torch.equal(images, before)
    if task.channels_last:
        assert normalized.is_contiguous(memory_format=torch.channels_last)


def test_statistics_are_not_in_the_state_dict():
    assert set(make_task().state_dict()) == {"linear.weight", "linear.bias"}


def test_without_statistics_pixels_are_scaled_to_one():
    task = zoo.create_model("softmax", ImageSpec(1, 2, 2, classes=("a", "b")))
    images = torch.tensor([0, 51, 102, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    torch.testing.assert_close(task.normalize(images).flatten(), torch.tensor([0.0, 0.2, 0.4, 1.0]))


def test_outputs_are_probabilities():
    task, batch = make_task(), make_batch(7)
    expected = torch.softmax(logits_by_hand(task.linear, batch["images"]), 1)
    torch.testing.assert_close(task.predict_step(batch), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 40)])
def test_an_example_fits_the_spec_and_follows_from_its_seed(shape):
    task = zoo.create_model("softmax", ImageSpec(*shape, classes=tuple("abc")))
    batch = task.example_batch(64)
    assert batch["images"].shape == (64, *shape) and batch["images"].dtype == torch.uint8
    assert batch["labels"].dtype == torch.int64 and batch["labels"].unique().tolist() == [0, 1, 2]
    assert batch["images"].min() < 10 and batch["images"].max() > 245
    assert torch.equal(batch["images"], task.example_batch(64)["images"])
    assert not torch.equal(batch["images"], task.example_batch(64, seed=1)["images"])
    assert task.training_step(batch, 0).isfinite()


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("soft", [False, True])
def test_the_training_loss_is_cross_entropy_with_smoothed_or_soft_targets(smoothing, soft):
    classes = 4
    task, batch = make_task(classes, label_smoothing=smoothing), make_batch(9, classes)
    targets = F.one_hot(batch["labels"], classes).float()
    if soft:
        targets = batch["targets"] = torch.softmax(torch.randn(9, classes), 1)
    # Szegedy et al. 2015b, section 7: the targets are mixed with the uniform distribution
    mixed = (1 - smoothing) * targets + smoothing / classes
    expected = -(mixed * F.log_softmax(logits_by_hand(task.linear, batch["images"]), 1)).sum(1).mean()
    torch.testing.assert_close(task.training_step(batch, 0), expected, rtol=1e-4, atol=1e-5)


def test_training_accuracy_compares_with_the_unmixed_labels():
    task, batch = make_task(), make_batch(50)
    predicted = logits_by_hand(task.linear, batch["images"]).argmax(1)
    batch["labels"] = torch.where(torch.arange(50) < 30, predicted, (predicted + 1) % 4)
    batch["targets"] = F.one_hot((predicted + 2) % 4, 4).float()
    loss = task.training_step(batch, 0)
    assert task.running.count == 50 and int(task.running.sums["accuracy"]) == 30
    assert float(task.running.sums["loss"]) == pytest.approx(50 * float(loss), rel=1e-5)
    assert not task.running.sums["loss"].requires_grad


def test_training_equals_a_loop_by_hand_and_records_the_means_over_samples():
    batches = [make_batch(n, seed=n) for n in (8, 8, 5)]  # the last is smaller
    settings = {
        "epochs": 2,
        "optimizer": "sgd",
        "lr": 0.05,
        "weight_decay": 0.1,
        "schedule": "one-cycle",
        "gradient_clip_val": 1.0,
    }
    task, records = make_task(**settings), Records()
    reference = nn.Linear(90, 4)
    reference.load_state_dict(task.linear.state_dict())
    groups = [{"params": [reference.weight], "weight_decay": 0.1}, {"params": [reference.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=6, cycle_momentum=False)
    expected = []
    for _ in range(2):
        loss_sum = right = 0.0
        for number, batch in enumerate(batches):
            logits = logits_by_hand(reference, batch["images"])
            loss = F.cross_entropy(logits, batch["labels"])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
            optimizer.step()
            if len(expected) < 1 or number < 2:
                schedule.step()
            loss_sum += len(batch["labels"]) * loss.item()
            right += int((logits.argmax(1) == batch["labels"]).sum())
        expected.append({"train/loss": loss_sum / 21, "train/accuracy": right / 21})
    trainer = make_trainer(max_epochs=2, gradient_clip_val=1.0, logger=records)
    trainer.fit(task, train_dataloaders=loader(batches))
    torch.testing.assert_close(task.linear.weight, reference.weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(task.linear.bias, reference.bias, rtol=1e-4, atol=1e-6)
    assert [record["step"] for record in records.records] == [3, 6]
    assert [record["epoch"] for record in records.records] == [0, 1]
    for record, values in zip(records.records, expected, strict=True):
        assert {key: record[key] for key in values} == pytest.approx(values, rel=1e-4)


@pytest.mark.parametrize(("accumulate", "factor"), [(1, 0.5), (2, 1.0), (4, 2.0)])
def test_the_learning_rate_is_scaled_by_the_batches_that_make_one_step(accumulate, factor):
    recipe = {"optimizer": "sgd", "optimizer_args": {"momentum": 0.0}, "schedule": "constant", "lr": 0.1, "batch_size": 8}
    task = make_task(**recipe, accumulate_grad_batches=accumulate, lr_base_batch_size=16)
    batches, start = [make_batch(8, seed=seed) for seed in range(accumulate)], task.linear.weight.detach().clone()
    images, labels = (torch.cat([batch[key] for batch in batches]) for key in ("images", "labels"))
    F.cross_entropy(logits_by_hand(task.linear, images), labels).backward()
    expected = start - 0.1 * factor * task.linear.weight.grad
    task.zero_grad()
    make_trainer(max_epochs=1, accumulate_grad_batches=accumulate).fit(task, train_dataloaders=loader(batches))
    torch.testing.assert_close(task.linear.weight.detach(), expected, rtol=1e-4, atol=1e-6)


def test_records_come_at_every_so_many_steps_and_cover_each_sample_once():
    batches = [make_batch(4, seed=seed) for seed in range(7)]
    task, records = make_task(schedule="constant", lr=1e-12), Records()
    make_trainer(max_epochs=1, log_every_n_steps=3, logger=records).fit(task, train_dataloaders=loader(batches))
    assert [record["step"] for record in records.records] == [3, 6, 7]
    logits = [logits_by_hand(task.linear, batch["images"]) for batch in batches]
    losses = [float(F.cross_entropy(given, batch["labels"])) for given, batch in zip(logits, batches, strict=True)]
    for record, part in zip(records.records, (losses[:3], losses[3:6], losses[6:]), strict=True):
        assert record["train/loss"] == pytest.approx(sum(part) / len(part), rel=1e-4)
        assert record["train/lr"] == pytest.approx(1e-12)


def test_dropout_follows_from_the_position_and_not_from_what_was_drawn_before():
    def trained(history: int):
        torch.manual_seed(0)
        task = zoo.create_model("mlp", spec_with(4), Recipe(epochs=1, batch_size=4, seed=5), hidden_sizes=[30], dropout=0.5)
        torch.manual_seed(history)
        make_trainer(max_epochs=1).fit(task, train_dataloaders=loader([make_batch(4, seed=seed) for seed in range(3)]))
        return task.head.weight.detach()

    assert torch.equal(trained(1), trained(2))


def test_a_loss_that_is_not_finite_ends_training_in_one_line():
    task = make_task()
    nn.init.constant_(task.linear.bias, float("nan"))
    with pytest.raises(UserError, match="recipe.lr") as error:
        make_trainer(max_epochs=1).fit(task, train_dataloaders=loader([make_batch(4)]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{"log_every_n_steps": 0}, {"barebones": True}])
def test_a_trainer_that_logs_nothing_can_train(options):
    task = make_task()
    before = task.linear.weight.detach().clone()
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, **options)
    trainer.fit(task, train_dataloaders=loader([make_batch(4), make_batch(4)]))
    assert not torch.equal(before, task.linear.weight)


# ------------------------------------------------------------------ evaluation


def figures_of(trainer: L.Trainer, task: L.LightningModule, batches: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    trainer.test(task, dataloaders=loader(batches), verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def with_rows_to_ignore(batches: list[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
    """Every third row of a batch must not count, and neither must a whole one."""
    for batch in batches:
        batch["labels"] = torch.where(torch.arange(len(batch["labels"])) % 3 == 1, IGNORE, batch["labels"])
    repeated = {"images": batches[-1]["images"], "labels": torch.full_like(batches[-1]["labels"], IGNORE)}
    return [*batches, repeated]


@pytest.mark.parametrize(("classes", "best_of_five"), [(4, False), (19, False), (20, True), (30, True)])
@pytest.mark.parametrize("ignoring", [False, True])
@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_test_figures_equal_scikit_learns(classes, best_of_five, ignoring):
    task = make_task(classes, label_smoothing=0.3)  # which is of training alone
    batches = [make_batch(n, classes, seed=n) for n in (64, 64, 7)]
    batches = with_rows_to_ignore(batches) if ignoring else batches
    trainer = make_trainer()
    for given in (batches[:1], batches):  # the second is not added to the first
        images, labels = (torch.cat([batch[key] for batch in given]) for key in ("images", "labels"))
        counted = labels != IGNORE
        logits = logits_by_hand(task.linear, images[counted]).detach().double()
        probabilities, labels = torch.softmax(logits, 1).numpy(), labels[counted].numpy()
        expected = {
            "test/accuracy": accuracy_score(labels, probabilities.argmax(1)),
            "test/balanced_accuracy": balanced_accuracy_score(labels, probabilities.argmax(1)),
            "test/f1_macro": f1_score(labels, probabilities.argmax(1), average="macro"),
            "test/loss": log_loss(labels, probabilities, labels=range(classes)),
        }
        if best_of_five:
            expected["test/accuracy_top5"] = top_k_accuracy_score(labels, probabilities, k=5, labels=range(classes))
            assert expected["test/accuracy"] < expected["test/accuracy_top5"] < 1
        assert figures_of(trainer, task, given) == pytest.approx(expected, rel=1e-5)
    assert {name.removeprefix("test/") for name in expected} <= task.directions.keys()


def test_validation_figures_are_logged_once_an_epoch_under_the_step_of_training():
    task, records = make_task(schedule="constant", lr=1e-12), Records()
    batches = with_rows_to_ignore([make_batch(8, seed=seed) for seed in range(3)])
    trainer = make_trainer(max_epochs=2, logger=records)
    trainer.fit(task, train_dataloaders=loader([make_batch(4), make_batch(4)]), val_dataloaders=loader(batches))
    images, labels = (torch.cat([batch[key] for batch in batches]) for key in ("images", "labels"))
    logits = logits_by_hand(task.linear, images)
    expected = {
        "val/loss": float(F.cross_entropy(logits, labels, ignore_index=IGNORE)),
        "val/accuracy": float((logits.argmax(1) == labels)[labels != IGNORE].float().mean()),
    }
    records = [record for record in records.records if "val/loss" in record]
    assert [(record["epoch"], record["step"]) for record in records] == [(0, 2), (1, 4)]
    for record in [*records, {key: float(value) for key, value in trainer.callback_metrics.items()}]:
        assert {key: record[key] for key in expected} == pytest.approx(expected, rel=1e-4)


def test_figures_do_not_depend_on_how_the_samples_are_batched():
    task, everything = make_task(), make_batch(60)
    figures = []
    for size in (60, 7, 1):
        parts = [{key: value[start : start + size] for key, value in everything.items()} for start in range(0, 60, size)]
        figures.append(figures_of(make_trainer(), task, parts))
    assert figures[0]["test/loss"] > 0
    for one, other in itertools.pairwise(figures):
        assert one == pytest.approx(other, rel=1e-6)
