"""The captioning task: sentences that describe an image, learned word by word and evaluated as a whole."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.config.options import require_positive
from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.metrics.captions import caption_scores
from zoo.metrics.generated_captions import GeneratedCaptions
from zoo.metrics.mean_loss import MeanLoss
from zoo.spec import END, IGNORE, PAD, START, UNKNOWN, CaptionSpec
from zoo.tasks.decoding import Decode, Sampling, beam_search, greedy, sample, until
from zoo.tasks.language_modeling import map_state
from zoo.tasks.pixels import to_pixels
from zoo.tasks.prediction import Prediction
from zoo.tasks.samples import Samples, Scene, Turn, evenly_spread
from zoo.tasks.task import Task

State: TypeAlias = Any  # tensors with a row for each sentence, or tuples of such
NEVER_WRITTEN = [PAD, START, UNKNOWN]


class Captioner(Task):
    """Images in, sentences out. A model implements ``encode``, ``decode``, ``initial_state``, ``decode_step`` and ``stages``.

    A batch is a dict: ``images``, [N, C, H, W] with values from 0 to 255, or their features from a frozen encoder;
    ``labels``, int64 [N, R, T], R captions of each, as ``START``, words, ``END`` and then ``PAD``; and ``image_id``, int64
    [N]. An image is encoded once for all its captions. It may also be a tuple ``(images, captions)``, captions int64 [N, T] or
    [N, R, T]; then evaluation measures the loss alone.

    The loss is in nats per word, ``END`` included, averaged over all words of all captions. In evaluation each image is captioned
    once, and captions are scored with BLEU, ROUGE-L and CIDEr, against references with their rare words; and with ``truth``, the
    fraction of captions that are entirely true, where the data can decide.

    Args:
        num_beams: beam width for captions in testing and prediction; 1 is greedy decoding, as in validation.
    """

    task = "captioning"
    review_command = "picture captions {run}"
    monitor = "cider"
    directions = {
        "loss": "min", "bleu1": "max", "bleu2": "max", "bleu3": "max", "bleu4": "max", "rouge_l": "max", "cider": "max",
        "truth": "max",
    }  # fmt: skip

    def __init__(self, spec: CaptionSpec, recipe: Recipe | None = None, num_beams: int = 1) -> None:
        super().__init__(spec, recipe)
        require_positive(num_beams=num_beams)
        self.beams = num_beams
        self.losses = nn.ModuleDict({stage: MeanLoss() for stage in ("val", "test")})
        self.generated = nn.ModuleDict({stage: GeneratedCaptions() for stage in ("val", "test")})

    # ------------------------------------------------------------------ for models to implement

    def encode(self, images: Tensor) -> Tensor:
        """Features of each image, [N, ...]."""
        raise NotImplementedError

    def decode(self, encoded: Tensor, captions: Tensor) -> Tensor:
        """Logits of the word after each, [N, R, T, vocabulary], for R captions of each image, int64 [N, R, T]."""
        raise NotImplementedError

    def initial_state(self, encoded: Tensor) -> State:
        """The state before the first word, a row for each image."""
        raise NotImplementedError

    def decode_step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits of the word after ``tokens``, int64 [N, T], as [N, vocabulary], and the new state."""
        raise NotImplementedError

    # ------------------------------------------------------------------ generation

    def forward(self, images: Tensor, captions: Tensor) -> Tensor:
        """Logits of the word after each, [N, R, T, vocabulary], for R captions of each image, int64 [N, R, T]."""
        return self.decode(self.encode(images), captions)

    def decoder(self, encoded: Tensor) -> Decode:
        """``decode(tokens, state)`` for encoded images, as ``tasks.decoding`` takes it; special words are never generated."""

        def decode(tokens: Tensor, state: State) -> tuple[Tensor, State]:
            scores, state = self.decode_step(tokens, self.initial_state(encoded) if state is None else state)
            return scores.float().index_fill(1, torch.tensor(NEVER_WRITTEN, device=scores.device), -torch.inf), state

        return decode

    @staticmethod
    def select_rows(state: State, rows: Tensor) -> State:
        """Select rows of the state by index; an index may occur several times."""
        return map_state(lambda part: part.index_select(0, rows), state)

    def start_tokens(self, encoded: Tensor) -> Tensor:
        """Start tokens, int64 [N, 1]."""
        return torch.full((len(encoded), 1), START, device=encoded.device)

    def generate(self, encoded: Tensor, beams: int) -> Tensor:
        """Generate a caption of each image, int64 [N, spec.length]; what follows an ``END`` is ignored."""
        length, prompt = self.spec.length, self.start_tokens(encoded)
        if beams == 1:
            texts = until(END, greedy(self.decoder(encoded), prompt, length)).to(encoded.device)
        else:
            texts = beam_search(self.decoder(encoded), self.select_rows, prompt, length, beams, END)[0][:, 0]
        return F.pad(texts, (0, length - texts.shape[1]), value=END)

    def predict_images(
        self,
        images: Tensor,
        beams: int | None = None,
        samples: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
    ) -> list[Prediction]:
        """Generate a caption of each image by beam search, with its log-probability, or sample several.

        Args:
            beams: sentences kept at a time; the default is the model's own.
            samples: how many to draw instead of a search, with ``temperature`` and ``seed``.
        """
        if samples is None and not temperature == seed == None:  # noqa: E711
            name = "seed" if temperature is None else "temperature"
            raise UserError(f"--{name} requires --samples")
        if samples is not None and beams is not None:
            raise UserError("--beams and --samples are mutually exclusive")
        encoded = self.encode(images)
        prompt, length = self.start_tokens(encoded), self.spec.length
        if samples is None:
            decoder = self.decoder(encoded)
            texts, totals = beam_search(decoder, self.select_rows, prompt, length, beams or self.beams, END)
            found = zip(texts[:, 0].tolist(), totals[:, 0].tolist(), strict=True)
        else:
            copies = torch.arange(len(images), device=encoded.device).repeat_interleave(samples)
            sampling = Sampling(1.0 if temperature is None else temperature)
            generator_seed = (seed or 0) % 2**63
            drawn = sample(self.decoder(encoded[copies]), prompt[copies], length, sampling, generator_seed)
            found = ((text, None) for text in until(END, drawn).tolist())
        return [Prediction({"caption": " ".join(self.spec.decode(text)), "log_probability": total}) for text, total in found]

    def validation_samples(self, data: Any) -> Samples:
        """Captions of some validation images, beside the references."""
        samples = super().validation_samples(data)
        if not samples.images or not hasattr(data, "references"):
            return samples
        split = data.splits["val"]
        chosen = evenly_spread(len(split), len(samples.images))
        references = (" / ".join(map(" ".join, given)) for given in data.references(split.columns["image_id"][chosen]))
        pairs = zip(samples.images, references, strict=True)
        scenes = [
            Scene(each.image, each.label, each.label, (Turn("caption", each.predicted, expected=given),)) for each, given in pairs
        ]
        return Samples(samples.about, scenes=scenes)

    # ------------------------------------------------------------------ steps

    def batch_from_tuple(self, images: Tensor, captions: Tensor) -> dict[str, Tensor]:
        return {"images": to_pixels(images), "labels": captions.view(len(images), -1, captions.shape[-1])}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        captions = batch["labels"]
        logits = self(batch["images"], captions[:, :, :-1])
        return self.objective(self.loss(logits, captions[:, :, 1:]), len(captions))

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of ``logits``, [N, R, T, vocabulary], over the words ``targets``, int64 [N, R, T], but ``PAD``."""
        smoothing = self.recipe.label_smoothing
        return F.cross_entropy(logits.flatten(0, 2), targets.flatten(), ignore_index=PAD, label_smoothing=smoothing)

    def evaluation_step(self, stage: str, batch: dict[str, Tensor]) -> None:
        labels = batch["labels"]
        captions = labels.clamp(min=PAD)  # a batch that does not count is labeled IGNORE
        encoded = self.encode(batch["images"])
        logits, targets = self.decode(encoded, captions[:, :, :-1]).flatten(0, 2).float(), captions[:, :, 1:].flatten()
        losses = F.cross_entropy(logits, targets, reduction="none", ignore_index=PAD)
        self.losses[stage].update(losses, targets != PAD)
        if "image_id" not in batch:  # which references belong to it is unknown
            return
        written = self.generate(encoded, self.beams if stage == "test" else 1)
        self.generated[stage].update(batch["image_id"], written, labels[:, 0, 0] != IGNORE)

    def compute_metrics(self, stage: str) -> dict[str, float]:
        data, loss = self.trainer.datamodule, float(self.losses[stage].compute())
        self.losses[stage].reset()
        if not hasattr(data, "references"):
            return {"loss": loss}
        pictures, places = self.generated[stage].compute()
        captions = [self.spec.decode(row) for row in places.tolist()]
        values = {"loss": loss, **caption_scores(captions, data.references(pictures))}
        if hasattr(data, "true_captions"):
            truths = data.true_captions(pictures, captions)
            values["truth"] = sum(truths) / len(truths)
        self.generated[stage].reset()
        return values

    # ------------------------------------------------------------------ checks

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> Tensor:
        """Probabilities of the next words of the captions, [N, R, T, vocabulary]."""
        return self(batch["images"], batch["labels"][:, :, :-1].clamp(min=PAD)).float().softmax(-1)

    def example_batch(self, n: int, seed: int = 0) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 256, (n, *self.spec.image.shape), generator=generator, dtype=torch.uint8)
        labels = torch.randint(UNKNOWN, len(self.spec.vocabulary), (n, 2, self.spec.length + 1), generator=generator)
        labels[:, :, 0] = START
        labels[:, 0, -1] = END
        labels[:, 1, -2:] = torch.tensor([END, PAD])
        return {"images": images, "labels": labels, "image_id": torch.arange(n)}
