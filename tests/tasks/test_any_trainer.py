"""A model of the zoo in a Trainer and with loaders of somebody else: what Lightning does with any module, it does with this."""

from __future__ import annotations

import csv
import inspect
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.core.randomness import derive_seed
from zoo.models.mlp import MLP
from zoo.models.recurrent_language_models import CharGRU
from zoo.models.resnet import ResNet
from zoo.models.softmax import Linear
from zoo.registry.registry import scan
from zoo.spec import CaptionSpec, DialogueSpec, ImageSpec, QuestionSpec, SequenceSpec, Spec, TextSpec
from zoo.tasks.dialogue import VisualDialogue

SPEC = ImageSpec(3, 8, 8, classes=("ant", "bee", "cat"), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def samples(n: int = 48, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images, uint8, whose brightness is their class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=generator)
    return (torch.rand(n, 3, 8, 8, generator=generator) * 40 + 90 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels


def loader(*tensors: Tensor, batch_size: int = 16) -> DataLoader:
    return DataLoader(TensorDataset(*tensors), batch_size)


def trainer(**options: Any) -> L.Trainer:
    warnings.filterwarnings("ignore", module="lightning")
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(accelerator="cpu", **{"max_epochs": 1, **quiet, **options})


def softmax(**recipe: Any) -> Linear:
    torch.manual_seed(0)
    return Linear(SPEC, Recipe(**{"epochs": 1, "optimizer": "sgd", "lr": 0.05, "schedule": "constant", **recipe}))


# ------------------------------------------------------------------ batches


def test_tuples_of_bytes_or_floats_train_as_the_dicts_of_the_zoo() -> None:
    images, labels = samples()
    dicts = [{"images": images[i : i + 16], "labels": labels[i : i + 16]} for i in range(0, 48, 16)]
    loaders = {
        "dict": DataLoader(dicts, batch_size=None),
        "bytes": loader(images, labels),
        "floats": loader(images / 255, labels),
        "one-hot": loader(images, F.one_hot(labels)),
        "doubles": loader(images.double() / 255, labels),
        "double dicts": DataLoader([{**batch, "images": batch["images"].double()} for batch in dicts], batch_size=None),
        "halves": loader((images / 255).half(), labels),
        "column": loader(images, labels.int()[:, None]),
        "probabilities": loader(images, F.one_hot(labels).double()),
    }
    weights = {}
    for name, batches in loaders.items():
        model = softmax()
        trainer().fit(model, batches)
        weights[name] = model.linear.weight.detach()
    assert torch.equal(weights["dict"], weights["bytes"]) and torch.equal(weights["dict"], weights["column"])
    for other in ("floats", "one-hot", "doubles", "double dicts", "probabilities"):
        torch.testing.assert_close(weights["dict"], weights[other], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(weights["dict"], weights["halves"], rtol=1e-2, atol=1e-3)
    assert {each.dtype for each in weights.values()} == {torch.float32}


def test_a_data_module_with_transfer_hooks_of_its_own_is_converted_after_them() -> None:
    class Brighter(L.LightningDataModule):
        def train_dataloader(self) -> DataLoader:
            return loader(*samples())

        def on_before_batch_transfer(self, batch: list[Tensor], dataloader_idx: int) -> tuple[Tensor, ...]:
            images, labels = batch
            return images // 2, labels

        def on_after_batch_transfer(self, batch: tuple[Tensor, ...], dataloader_idx: int) -> tuple[Tensor, ...]:
            images, labels = batch
            return images / 255, labels

    images, labels = samples()
    one, other = softmax(), softmax()
    trainer().fit(one, datamodule=Brighter())
    trainer().fit(other, loader(images // 2, labels))
    torch.testing.assert_close(one.linear.weight, other.linear.weight, rtol=1e-4, atol=1e-6)


def test_prediction_takes_images_alone_in_a_tuple_or_with_labels() -> None:
    images, labels = samples()
    model = softmax()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (SPEC.mean, SPEC.std))
    expected = model.linear(((images / 255 - mean) / std).flatten(1) / images[0].numel() ** 0.5).softmax(1)
    for batches in (DataLoader(images, 16), loader(images), loader(images, labels), loader(images / 255)):
        predicted = torch.cat(trainer().predict(model, batches))
        torch.testing.assert_close(predicted, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (lambda images: images.float(), "divide by 255 or pass uint8"),
        (lambda images: (images / 255 - 0.5) / 0.25, "leave out the normalization"),
    ],
)
def test_a_wrong_range_is_noticed_once_in_words(images, says) -> None:
    pixels, labels = samples()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(max_epochs=2).fit(softmax(), loader(images(pixels), labels))
    (said,) = (str(each.message) for each in caught if "scaled to [0, 1]" in str(each.message))
    assert "Linear" in said and says in said


def test_what_does_not_fit_the_spec_is_refused_before_the_first_step() -> None:
    images, labels = samples()
    with pytest.raises(UserError, match=r"classes 0 to 2, and a label is 3"):
        trainer().fit(softmax(), loader(images, labels + 1))
    with pytest.raises(UserError, match=r"takes images \[N, 3, H, W\], and these are \[16, 8, 8, 3\]"):
        trainer().fit(softmax(), loader(images.permute(0, 2, 3, 1), labels))
    for wrong in (torch.rand(48, 4), torch.rand(48), torch.ones(48, 2).long(), torch.ones(48, 3).long()):
        with pytest.raises(UserError, match=r"probabilities|labels \[N, 3\] are probabilities"):
            trainer().fit(softmax(), loader(images, wrong))
    with pytest.raises(UserError, match="MLP takes images of 3x8x8, and these are 3x9x9"):
        trainer().fit(MLP(SPEC, hidden_sizes=[4]), loader(torch.rand(48, 3, 9, 9), labels))


def test_data_of_the_zoo_that_does_not_fit_the_spec_is_refused_too() -> None:
    import zoo

    data = zoo.create_data("digits")
    with pytest.raises(UserError, match=r"MLP takes images \[N, 3, H, W\], and these are \[128, 1, 8, 8\]"):
        trainer().fit(zoo.create_model("mlp", num_classes=10, image_size=8), datamodule=data)
    with pytest.raises(UserError, match="MLP has the classes 0 to 2, and a label is"):
        trainer().fit(zoo.create_model("mlp", num_classes=3, image_size=8, in_channels=1), datamodule=data)


@pytest.mark.parametrize("compiled", [False, True])
def test_forward_says_that_it_takes_normalized_images(compiled) -> None:
    model, (images, _) = ResNet(SPEC, depth=8, width=4).eval(), samples(4)
    if compiled:
        model.compile(backend="eager")
    with pytest.raises(UserError, match=r"model\.normalize\(images\).*model\.predict_images\(images\)"):
        model(images)
    logits = model(model.normalize(images))  # both ways work
    classes = [prediction.name for prediction in model.predict_images(images)]
    assert classes == [SPEC.classes[index] for index in logits.argmax(1).tolist()]
    with pytest.raises(UserError, match="ResNet takes images of 3x8x8, and these are 2x8x8"):
        model(torch.rand(4, 2, 8, 8))
    with pytest.raises(RuntimeError):
        model(torch.rand(4, 3, 8, 8).double())


def test_a_task_without_tuples_says_what_it_takes() -> None:
    spec = DialogueSpec(SPEC, ("<pad>", "<start>", "<end>", "<unknown>", "yes"), ("yes",), 4, 2, 1)
    with pytest.raises(UserError, match="VisualDialogue takes batches as dicts of images, captions, questions"):
        VisualDialogue(spec).batch_from_tuple(torch.rand(1, 3, 8, 8), torch.zeros(1))


def test_a_language_model_learns_from_tokens_and_targets() -> None:
    torch.manual_seed(0)
    text = torch.arange(61).remainder(3).view(1, -1) + torch.arange(3).view(-1, 1)
    tokens, targets = (text.remainder(3)[:, part] for part in (slice(0, -1), slice(1, None)))
    batches = loader(tokens, targets, batch_size=2)  # the last one is smaller
    model = CharGRU(TextSpec(tuple("abc")), Recipe(lr=0.05, schedule="constant"), hidden_size=16)
    fit = trainer(max_epochs=20)
    fit.fit(model, batches, batches)
    assert fit.callback_metrics["val/loss"] < 0.2 < fit.validate(CharGRU(model.spec), batches)[0]["val/loss"]
    assert torch.cat(trainer().predict(model, DataLoader(tokens, 3))).shape == (3, 60, 3)


WORDS = ("<pad>", "<start>", "<end>", "<unknown>", "a", "red", "cat")
PICTURES = ImageSpec(1, 16, 16, classes=())
TUPLES: dict[str, tuple[str, Spec, tuple[str, ...], str]] = {
    "captions": ("captioner", CaptionSpec(PICTURES, WORDS, 5), ("images", "labels"), "val/loss"),
    "questions": ("vqa-lstm", QuestionSpec(PICTURES, WORDS, ("yes", "no"), 4), ("images", "questions", "labels"), "val/accuracy"),
    "sequences": ("gru", SequenceSpec(6, 2, ("_", "x", "y")), ("inputs", "targets"), "val/accuracy"),
    "text": ("char-gru", TextSpec(tuple("abc")), ("tokens", "targets"), "val/perplexity"),
}


@pytest.mark.parametrize(("name", "spec", "parts", "metric"), TUPLES.values(), ids=TUPLES)
def test_tuples_of_other_tasks_train_as_their_dicts(name: str, spec: Spec, parts: tuple[str, ...], metric: str) -> None:
    entry = scan().model(name)
    weights = []
    for as_dict in (True, False):
        torch.manual_seed(0)
        model = entry.load()(spec, Recipe(epochs=1, lr=0.01, schedule="constant"), **entry.tiny)
        batch = model.example_batch(8)
        batches = DataLoader([batch if as_dict else tuple(batch[part] for part in parts)], batch_size=None)
        fit = trainer(num_sanity_val_steps=0)
        fit.fit(model, batches, None if as_dict else batches)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.equal(*weights)
    assert fit.callback_metrics.keys() >= {"train/loss", "val/loss", metric}


# ------------------------------------------------------------------ metrics


def test_callback_metrics_are_the_means_of_the_epoch() -> None:
    images, labels = samples(40)
    model = softmax(lr=1e-12)
    fit = trainer(max_epochs=2, log_every_n_steps=2, logger=CSVLogger("logs"))
    fit.fit(model, loader(images, labels), loader(*samples(20, seed=1)))
    for stage, data in {"train": (images, labels), "val": samples(20, seed=1)}.items():
        images, labels = data
        logits = model(model.normalize(images))
        loss, accuracy = F.cross_entropy(logits, labels), (logits.argmax(1) == labels).float().mean()
        torch.testing.assert_close(fit.callback_metrics[f"{stage}/loss"], loss, rtol=1e-4, atol=1e-6, check_dtype=False)
        torch.testing.assert_close(fit.callback_metrics[f"{stage}/accuracy"], accuracy, check_dtype=False)


def test_loggers_get_every_record_in_order_and_nothing_of_the_sanity_check() -> None:
    images, labels = samples(40)
    fit = trainer(max_epochs=2, log_every_n_steps=2, logger=CSVLogger("logs"), num_sanity_val_steps=2)
    fit.fit(softmax(), loader(images, labels), loader(images, labels))
    rows = list(csv.DictReader(Path(fit.logger.log_dir, "metrics.csv").read_text().splitlines()))
    steps = [(int(row["step"]), bool(row["val/loss"])) for row in rows]
    assert steps == [(1, False), (2, False), (2, True), (4, False), (5, False), (5, True)]
    assert sum(float(row["train/samples_per_second"] or 0) > 0 for row in rows) == 4
    hparams = Path(fit.logger.log_dir, "hparams.yaml").read_text()
    assert "lr: 0.05" in hparams and "bee" not in hparams


def test_validate_and_test_return_their_metrics() -> None:
    images, labels = samples()
    model = softmax()
    right = (model(model.normalize(images)).argmax(1) == labels).float().mean()
    for stage, run in {"val": trainer().validate, "test": trainer().test}.items():
        (metrics,) = run(model, loader(images, labels), verbose=False)
        assert metrics[f"{stage}/accuracy"] == pytest.approx(float(right)) and metrics.keys() >= {f"{stage}/loss"}


def test_callbacks_of_lightning_find_what_they_monitor() -> None:
    batches, learns = loader(*samples()), softmax()
    best = ModelCheckpoint("best", monitor="val/accuracy", mode="max")
    fit = trainer(max_epochs=6, enable_checkpointing=True, callbacks=[best, EarlyStopping("val/loss", patience=99)])
    fit.fit(learns, batches, batches)
    assert best.best_model_score == fit.callback_metrics["val/accuracy"] > 0.5
    for monitor, options in {"val/loss": {}, "train/loss": {"check_on_train_epoch_end": True}}.items():
        stop = EarlyStopping(monitor, patience=1, min_delta=1e-3, **options)
        stops = trainer(max_epochs=9, callbacks=[stop])
        stops.fit(softmax(lr=1e-12), batches, batches)
        assert stops.current_epoch == 2, monitor


def test_training_by_steps_without_validation_and_with_accumulated_batches() -> None:
    fit = trainer(max_epochs=-1, max_steps=5, accumulate_grad_batches=2, limit_train_batches=4)
    fit.fit(softmax(schedule="one-cycle"), loader(*samples(64)))
    assert fit.global_step == 5 and fit.callback_metrics["train/loss"] > 0
    fit = trainer(max_epochs=-1, limit_train_batches=1, callbacks=[EarlyStopping("train/loss", check_on_train_epoch_end=True)])
    model = softmax(lr=1e-12, schedule="one-cycle", epochs=10, warmup_epochs=2.0)
    fit.fit(model, loader(*samples()))  # no end is known, so there is no schedule
    assert fit.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-12)


def test_a_schedule_spans_the_trainers_epochs_and_the_recipe_limits_gradients() -> None:
    model = softmax(schedule="cosine", epochs=50, gradient_clip_val=1e-9, weight_decay=0.0)
    start = model.linear.weight.detach().clone()
    fit = trainer(max_epochs=2)
    fit.fit(model, loader(*samples()))
    assert fit.lr_scheduler_configs[0].scheduler.get_last_lr()[0] == pytest.approx(0, abs=1e-9)
    assert (model.linear.weight - start).norm() < 1e-8


# ------------------------------------------------------------------ checkpoints


def test_a_class_is_loaded_from_a_checkpoint_of_any_trainer() -> None:
    batches = loader(*samples())
    model = ResNet(SPEC, Recipe(epochs=3, lr=0.01), depth=8, width=4, norm="group")
    fit = trainer(enable_checkpointing=True, default_root_dir="project")
    fit.fit(model, batches, batches)
    model.set_normalization((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    for file in (fit.checkpoint_callback.best_model_path, "saved.ckpt"):
        if file == "saved.ckpt":
            fit.save_checkpoint(file)
        loaded = ResNet.load_from_checkpoint(file)
        assert loaded.recipe == model.recipe and loaded.hparams == model.hparams
        fresh = ResNet(SPEC, depth=8, width=4, norm="group")
        fresh.load_state_dict(torch.load(file, weights_only=True)["state_dict"])
    assert loaded.spec == model.spec != SPEC
    images, _ = samples(8, seed=3)
    assert torch.equal(loaded.eval().predict_step({"images": images}), model.eval().predict_step({"images": images}))
    assert ResNet.load_from_checkpoint("saved.ckpt", dropout=0.5).dropout.p == 0.5
    for other in (MLP, Linear):
        with pytest.raises(UserError, match=f"saved.ckpt is a checkpoint of ResNet, not of {other.__name__}"):
            other.load_from_checkpoint("saved.ckpt")
    with pytest.raises(TypeError, match="hidden_sizes"):
        ResNet.load_from_checkpoint("saved.ckpt", hidden_sizes=[3])


def test_a_class_is_loaded_from_a_run(zoo) -> None:
    settings = ("--set", "model.hidden_sizes=[8]", "--set", "data.size=4", "--set", "recipe.batch_size=512")
    assert zoo("train", "mlp", "--epochs", "1", "--name", "run", *settings).code == 0
    model = MLP.load_from_checkpoint("runs/run/checkpoints/best.ckpt")
    assert model.hparams["hidden_sizes"] == [8] and model.spec.shape == (1, 4, 4) and any(model.spec.mean)
    with pytest.raises(UserError, match="not a checkpoint of MLP"):
        torch.save({"state_dict": {}}, "other.ckpt")
        MLP.load_from_checkpoint("other.ckpt")


def test_a_class_that_fixes_options_of_its_base_is_loaded_too() -> None:
    class Small(ResNet):
        def __init__(self, spec: ImageSpec, recipe: Recipe | None = None, note: str = "", **options: Any) -> None:
            super().__init__(spec, recipe, depth=8, **options)
            self.note = note

    fit = trainer()
    fit.strategy.connect(Small(SPEC, None, "seen", width=4))
    fit.save_checkpoint("small.ckpt", weights_only=True)
    loaded = Small.load_from_checkpoint("small.ckpt")
    assert loaded.note == "seen" and loaded.head.in_features == 16
    assert list(inspect.signature(Small).parameters) == ["spec", "recipe", "note", "options"]


# ------------------------------------------------------------------ recipes, and data with a module of somebody else


def test_without_a_recipe_a_class_takes_the_one_it_is_registered_with() -> None:
    models = scan().models
    for name, options in {"resnet20": {"width": 4}, "plain20": {"shortcuts": False}, "mlp": {}}.items():
        model = models[name].load()(SPEC, **options)
        assert model.recipe == Recipe(**models[name].recipe), name

    class Unregistered(Linear):
        pass

    assert Unregistered(SPEC).recipe == Recipe(**models["softmax"].recipe)


class Foreign(L.LightningModule):
    """Somebody else's classifier of the digits."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.rows = nn.Linear(64, 10), {"train": 0, "val": 0}

    def step(self, batch: dict[str, Tensor], stage: str) -> Tensor:
        self.rows[stage] += len(batch["labels"])
        loss = F.cross_entropy(self.layer(batch["images"].flatten(1) / 255), batch["labels"])
        self.log(f"{stage}/loss", loss, on_epoch=True, on_step=False)
        return loss

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "train")

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.step(batch, "val")

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.layer(batch["images"].flatten(1) / 255).argmax(1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.5)


def test_prediction_for_data_of_the_zoo_is_for_its_test_split() -> None:
    import zoo

    data, model = zoo.create_data("digits"), zoo.create_model("mlp")
    predicted = torch.cat(trainer().predict(model, datamodule=data))
    assert torch.equal(predicted, model.predict_step({"images": data.splits["test"].images.pixels}))


@pytest.mark.parametrize("name", ["digits", "shapes-questions", "pydoc", "rooms"])
def test_data_that_has_not_been_read_says_what_to_call(name: str) -> None:
    import zoo

    data = zoo.create_data(name)
    for build in (data.train_dataloader, data.val_dataloader, data.test_dataloader, data.predict_dataloader):
        with pytest.raises(UserError, match=r"call prepare_data\(\) and setup\(\) first, or give it to a Trainer"):
            build()


def test_data_of_the_zoo_trains_somebody_elses_module() -> None:
    import zoo

    data, module = zoo.create_data("digits", batch_size=128), Foreign()
    fit = trainer(max_epochs=3, num_sanity_val_steps=0, enable_checkpointing=True, default_root_dir="project")
    fit.fit(module, datamodule=data)
    assert module.rows["val"] == 3 * len(data.splits["val"])
    assert module.rows["train"] == 3 * (len(data.splits["train"]) // 128) * 128
    assert fit.callback_metrics["val/loss"] < 2


def test_an_optimizer_that_evaluates_a_batch_several_times_draws_the_same_and_records_the_first() -> None:
    images, labels = samples()
    torch.manual_seed(0)
    recipe = Recipe(epochs=1, optimizer="lbfgs", lr=0.5, schedule="constant")
    model = MLP(SPEC, recipe, hidden_sizes=[8], dropout=0.5)
    by_hand = MLP(SPEC, recipe, hidden_sizes=[8], dropout=0.5)
    by_hand.load_state_dict(model.state_dict())
    optimizer, losses = torch.optim.LBFGS(by_hand.parameters(), 0.5), []

    def closure() -> Tensor:
        torch.manual_seed(derive_seed(0, "step", 0, 0, 0))
        optimizer.zero_grad()
        losses.append(F.cross_entropy(by_hand(by_hand.normalize(images)), labels))
        losses[-1].backward()
        return losses[-1]

    optimizer.step(closure)
    fit = trainer()
    fit.fit(model, loader(images, labels, batch_size=48))
    assert len(losses) > 5
    for name, weight in by_hand.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weight, rtol=1e-4, atol=1e-5)
    assert float(fit.callback_metrics["train/loss"]) == pytest.approx(losses[0].item(), rel=1e-5)
