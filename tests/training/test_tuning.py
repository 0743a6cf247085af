"""Finding a rate and a batch: against a plain loop of torch, with simulated limits of memory, and with nothing left behind."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from zoo.config.recipe import Recipe
from zoo.config.resolution import resolve
from zoo.config.settings import parse_setting
from zoo.core.allocator import keep_freed_memory
from zoo.core.errors import UserError
from zoo.models.softmax import Linear
from zoo.optim.optimizers import build_optimizer
from zoo.registry.registry import scan
from zoo.training import memory, tuning
from zoo.training.tuning import Setup, build_setup, range_test, read_range_test, search_batch, smooth


@pytest.fixture(autouse=True)
def on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def make_setup(model: str = "softmax", *settings: str) -> Setup:
    registry = scan()
    return build_setup(registry, resolve(registry, model, {}, [*map(parse_setting, settings)]))


def weights(task: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in task.state_dict().items()}


# ---------------------------------------------------------------------------------------------- the rate


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_losses_are_those_of_a_plain_loop(optimizer: str) -> None:
    tried = make_setup("softmax", f"recipe.optimizer={optimizer}", "recipe.weight_decay=0.1", "recipe.schedule=one-cycle")
    found = range_test(tried, 1e-4, 1e-1, steps=8)  # eight of the ten steps of the first epoch
    spec, data = tried.data.spec, tried.data
    data.trainer = None  # which would say that eight batches are done
    layer = nn.Linear(math.prod(spec.shape), len(spec.classes))
    nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    if optimizer == "sgd":
        groups = [{"params": [layer.weight], "weight_decay": 0.1}, {"params": [layer.bias]}]
        plain = torch.optim.SGD(groups, 1.0, 0.9, nesterov=True)
    else:
        plain = torch.optim.AdamW(
            [{"params": [layer.weight], "weight_decay": 0.1}, {"params": [layer.bias], "weight_decay": 0.0}]
        )
    losses = []
    for batch, rate in zip(data.train_dataloader(), np.geomspace(1e-4, 1e-1, 8), strict=False):
        for group in plain.param_groups:
            group["lr"] = rate
        pixels = (batch["images"] / 255 - spec.mean[0]) / spec.std[0] / math.sqrt(math.prod(spec.shape))
        loss = nn.functional.cross_entropy(layer(pixels.flatten(1)), batch["labels"])
        plain.zero_grad(), loss.backward(), plain.step()
        losses.append(loss.item())
    assert found.rates == pytest.approx(np.geomspace(1e-4, 1e-1, 8))
    assert found.losses == pytest.approx(losses, rel=1e-4)


def test_groups_keep_their_proportions(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(groups: list[dict], recipe: Recipe, lr: float) -> torch.optim.Optimizer:
        optimizer = build_optimizer(groups, recipe, lr)
        hook = lambda optimizer, *_: seen.append(sorted({group["lr"] for group in optimizer.param_groups}))  # noqa: E731
        optimizer.register_step_pre_hook(hook)
        return optimizer

    monkeypatch.setattr("zoo.tasks.task.build_optimizer", watched)
    layer_wise = ("recipe.lr_base_batch_size=64", "recipe.layer_decay=0.25", "model.hidden_sizes=[8]")
    range_test(make_setup("mlp", *layer_wise), 1e-3, 1e-1, steps=3)
    # batches of 128 for a rate that is meant for 64
    assert np.array(seen) == pytest.approx(np.array([[0.0005, 0.002], [0.005, 0.02], [0.05, 0.2]]))


def test_accumulated_batches_are_one_step() -> None:
    found = range_test(make_setup("softmax", "recipe.accumulate_grad_batches=2", "recipe.batch_size=64"), 1e-9, 1e-8, steps=4)
    assert len(found.losses) == 4
    assert found.losses == pytest.approx([math.log(10)] * 4, abs=1e-4)


def test_a_loss_that_explodes_ends_the_test_and_a_rate_below_is_suggested() -> None:
    found = range_test(make_setup("mlp"))
    assert found.diverged and len(found.losses) < tuning.STEPS and found.rates[-1] < tuning.HIGHEST
    assert all(map(math.isfinite, found.losses))
    assert 1e-4 < found.suggestion < found.rates[-1] / 2


def test_a_loss_that_is_not_a_number_ends_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = make_setup("softmax", "trainer.log_every_n_steps=1")
    loss, calls = Linear.loss, []

    def breaks_off(task, logits, targets):
        calls.append(1)
        return loss(task, logits, targets) * (math.nan if len(calls) > after else 1)

    monkeypatch.setattr(Linear, "loss", breaks_off)
    after = 5
    found = range_test(tried)
    assert found.diverged and len(found.losses) == len(found.rates) == 5 and found.suggestion is None
    after, calls[:] = 0, []
    with pytest.raises(UserError, match="softmax is not finite at the first step"):
        range_test(tried)


def test_the_rule() -> None:
    rates = np.geomspace(1e-4, 1, 41).tolist()
    valley = [1 + abs(math.log10(rate) + 2) for rate in rates]  # lowest at 0.01
    assert read_range_test(rates, valley, False).suggestion == pytest.approx(0.01)
    assert read_range_test(rates, [1.0] * 41, False).suggestion is None
    assert read_range_test(rates, np.linspace(1, 2, 41).tolist(), True).suggestion is None


def test_smoothing_keeps_what_is_straight_and_shifts_nothing() -> None:
    straight = np.linspace(3, 1, 41).tolist()
    assert smooth(straight)[10:-10] == pytest.approx(straight[10:-10])
    bump = [0.0] * 20 + [1.0] + [0.0] * 20
    smoothed = np.array(smooth(bump))
    assert smoothed.argmax() == 20 and smoothed == pytest.approx(smoothed[::-1])
    assert smoothed[22] / smoothed[20] == pytest.approx(math.exp(-0.5), rel=1e-3)  # one deviation away


# ---------------------------------------------------------------------------------------------- the batch


def limited(monkeypatch: pytest.MonkeyPatch, train: int, val: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
    """Simulate a device on which larger batches than these do not fit."""
    classifier = Linear.with_loop("classification")
    train_step, evaluate = classifier.training_step, classifier.evaluation_step

    def training_step(task, batch, index):
        if len(batch["labels"]) > train:
            raise error("CUDA out of memory")
        return train_step(task, batch, index)

    def evaluation(task, stage, batch):
        if len(batch["labels"]) > val:
            raise error("CUDA out of memory")
        evaluate(task, stage, batch)

    monkeypatch.setattr(classifier, "training_step", training_step)
    monkeypatch.setattr(classifier, "evaluation_step", evaluation)


def test_all_training_images_are_the_most() -> None:
    found = search_batch(make_setup())
    assert (found.largest, found.limit) == (1295, "data")
    assert [trial.batch_size for trial in found.trials] == [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1295]
    assert found.available > 0 and all(trial.seconds > 0 for trial in found.trials)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, pytest.param(RuntimeError, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("train", "val", "most"), [(300, 999, 300), (999, 100, 100)])
def test_the_largest_that_fits_in_training_and_validation(monkeypatch, train: int, val: int, most: int, error) -> None:
    tried = make_setup()
    limited(monkeypatch, train, val, error)
    found = search_batch(tried)
    assert most * 15 / 16 - 1 <= found.largest <= most and found.limit == "memory"
    assert all(trial.batch_size <= most for trial in found.trials)


def test_other_faults_are_not_taken_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = make_setup()
    monkeypatch.setattr(Linear, "forward", lambda task, images: images @ images)
    with pytest.raises(RuntimeError):
        search_batch(tried)


def test_nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = make_setup()
    limited(monkeypatch, 1, 1)
    with pytest.raises(UserError, match="not even a batch of 2 fits"):
        search_batch(tried)


def test_on_a_processor_what_would_not_fit_is_never_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = make_setup("softmax")
    tried_sizes = []
    steps = tuning._Search._steps
    monkeypatch.setattr(tuning._Search, "_steps", lambda search, size: tried_sizes.append(size) or steps(search, size))
    monkeypatch.setattr(tuning, "available_memory", lambda device: 10**9)
    # a megabyte an image, and ten for whatever else
    monkeypatch.setattr(tuning.PeakMemory, "bytes", lambda peak: 10**6 * (10 + tried_sizes[-1]))
    found = search_batch(tried)
    assert found.limit == "memory" and 740 <= found.largest <= 790
    assert max(tried_sizes) <= 790, "80% of a gigabyte"


def test_steps_that_take_too_long_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = make_setup()
    monkeypatch.setattr(tuning._StepTimer, "seconds", property(lambda clock: 3.0, lambda clock, value: None), raising=False)
    found = search_batch(tried)
    assert (found.largest, found.limit) == (2 * 2, "time") or found.limit == "data"
    monkeypatch.setattr(tuning, "SLOW", 5.0)
    found = search_batch(tried)
    assert (found.largest, found.limit) == (2, "time")


@pytest.mark.parametrize("freed", [0, 300])
def test_the_peak_of_a_processor_is_what_was_taken(freed: int) -> None:
    keep_freed_memory()
    torch.ones(freed * 250_000)  # megabytes that the process still holds, though nothing uses them
    peak = memory.PeakMemory(torch.device("cpu"))
    if peak.bytes() is None or peak.bytes() > 10e6:
        pytest.skip("this system does not tell, or cannot forget a peak")
    torch.ones(25_000_000)
    assert 95e6 < peak.bytes() < 130e6
    peak.start()
    assert peak.bytes() < 50e6, "the peak before counts no more"


def test_what_a_container_may_take_is_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, use = tmp_path / "limit", tmp_path / "use"
    limit.write_text("5000000\n"), use.write_text("2000000\n")
    monkeypatch.setattr("zoo.core.memory.CONTAINER", ((str(limit), str(use)), ("/nowhere", "/nowhere")))
    assert memory.available_memory(torch.device("cpu")) == 3_000_000
    limit.write_text("max\n")
    assert memory.available_memory(torch.device("cpu")) != 3_000_000


# ---------------------------------------------------------------------------------------------- nothing stays


def test_weights_and_batch_stay_and_nothing_is_written() -> None:
    tried = make_setup("mlp", "model.hidden_sizes=[16]")
    before = weights(tried.task)
    range_test(tried)
    search_batch(tried)
    assert all(torch.equal(value, before[name]) for name, value in weights(tried.task).items())
    assert tried.data.batch_size == 128 and not list(Path().iterdir())


# ---------------------------------------------------------------------------------------------- the command


def test_the_command_finds_both_and_what_it_proposes_trains(zoo) -> None:
    answer = zoo(
        "tune", "mlp", "--set", "model.hidden_sizes=[16]", "--set", "recipe.lr=5", "--set", "recipe.batch_size=100", "--json"
    )
    assert answer.code == 0 and not list(Path().iterdir())
    found = json.loads(answer.out)
    assert found["batch_search"]["largest"] == 1295 and found["batch_size"] == 100
    assert found["lr"] == found["range_test"]["suggestion"] < 0.5
    words = shlex.split(found["next"])
    settings = ["model.hidden_sizes=[16]", f"recipe.lr={found['lr']:g}", "recipe.batch_size=100"]
    assert words == ["zoo", "train", "mlp", *(word for setting in settings for word in ("--set", setting))]
    assert zoo(*words[1:], "--epochs", "1").code == 0


def test_the_command_tells_in_words_and_draws(zoo) -> None:
    answer = zoo("tune", "softmax", "--only", "lr", "-o", "rates.png")
    assert answer.code == 0 and "images/s" not in answer.out
    assert "instead of the recipe's 0.5" in answer.out and answer.out.splitlines()[-1].startswith("next: zoo train softmax --set")
    assert Path("rates.png").read_bytes()[:4] == b"\x89PNG"
    answer = zoo("tune", "softmax", "--only", "batch")
    assert "1,295 fits of" in answer.out and "\nlearning rate" not in answer.out
    assert answer.out.splitlines()[-1] == "next: zoo train softmax --set recipe.lr=0.5 --set recipe.batch_size=128"


def test_a_batch_that_does_not_fit_is_lowered_before_the_rate_is_sought(zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, 64, 64)
    answer = zoo("tune", "softmax", "--json")
    found = json.loads(answer.out)
    assert answer.code == 0 and found["batch_size"] == 64 and found["lr"] is not None


def test_what_is_no_data_of_images_has_a_rate_only(zoo) -> None:
    small = ["--set", "model.hidden_size=8", "--set", "model.num_layers=1", "--json"]
    answer = zoo("tune", "char-rnn", *small)
    assert answer.code == 0 and "batch_search" not in json.loads(answer.out)
    assert zoo("tune", "char-rnn", *small, "--only", "batch").is_one_line_error("--only lr")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet2"], ["no model, backbone or run 'resnet2'"]),
        (["mlp", "--only", "rate"], ["no part 'rate'", "lr"]),
        (["mlp", "-o", "rates.jpg"], [".png"]),
        (["mlp", "--only", "batch", "-o", "rates.png"], ["--only batch"]),
        (["mlp", "--set", "trainer.devices=2"], ["one device"]),
        (["knn"], ["one pass"]),
    ],
)
def test_a_mistake_is_one_line(zoo, arguments: list[str], words: list[str]) -> None:
    assert zoo("tune", *arguments).is_one_line_error(*words)
    assert not list(Path().iterdir())
