"""The language-modeling task: the next character of a text, with a state that is carried from chunk to chunk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.config.recipe import Recipe
from zoo.metrics.mean_loss import MeanLoss
from zoo.spec import IGNORE, TextSpec
from zoo.tasks.decoding import Sampling, beam_search, greedy, sample
from zoo.tasks.samples import Samples, Text
from zoo.tasks.task import Task

State: TypeAlias = Any  # a tensor [layers, N, ...], a tuple of such, or None where nothing is carried
EXAMPLE_LENGTH = 12
SAMPLED, TEMPERATURES = 400, (0.7, 1.0)  # characters of each text in a report
KEPT = "stream_state"  # where a checkpoint has the state of the training rows


class LanguageModel(Task):
    """Characters in, scores for the next character out. A model implements ``forward`` and ``stages``.

    A batch is a dict: ``tokens`` and ``targets``, int64 [N, T], a text and the same text one character later; and ``fresh``, bool
    [N], which rows begin here. The state of the others is carried over from the batch before and cut from its graph: truncated
    back-propagation through time (Williams and Peng 1990). It is kept in checkpoints, so that a run resumes within a row. A batch
    may also be a tuple ``(tokens, targets)``, whose rows all begin here.

    The loss is in nats per character.
    """

    task = "language-modeling"
    use_command = "sample {run}"
    monitor = "loss"
    directions = {"loss": "min", "bits_per_character": "min", "perplexity": "min"}

    def __init__(self, spec: TextSpec, recipe: Recipe | None = None) -> None:
        super().__init__(spec, recipe)
        self.losses = nn.ModuleDict({stage: MeanLoss() for stage in ("val", "test")})
        self.stream_state: State = None
        self.evaluation_state: State = None

    def forward(self, tokens: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Logits of the character after each, [N, T, vocabulary], and the state after the last.

        Args:
            tokens: int64, [N, T].
            state: as returned by the previous call, or None at the start.
        """
        raise NotImplementedError

    def prepare(self, data: Any) -> None:
        data.train_dataloader()  # raises if the text is too short

    def decode(self, tokens: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Logits of the next character, [N, vocabulary], and the state, for generation step by step."""
        logits, state = self(tokens, state)
        return logits[:, -1].float(), state

    @staticmethod
    def select_rows(state: State, rows: Tensor) -> State:
        """Select rows of the state by index; an index may occur several times."""
        return map_state(lambda part: part.index_select(1, rows), state)

    # ------------------------------------------------------------------ generation

    def generate(self, prompt: str, length: int, samples: int, sampling: Sampling | None, seed: int = 0) -> Iterator[list[str]]:
        """Generate texts, one more character of each at a time: drawn by ``sampling``, or the most probable without."""
        tokens = self._encode_prompt(prompt, samples)
        drawn = sample(self.decode, tokens, length, sampling, seed) if sampling else greedy(self.decode, tokens, length)
        return (list(self.spec.decode(places.tolist())) for places in drawn)

    def generate_by_beam_search(self, prompt: str, length: int, beams: int) -> list[tuple[str, float]]:
        """The most probable texts that beam search finds, best first, with their log-probabilities."""
        texts, totals = beam_search(self.decode, self.select_rows, self._encode_prompt(prompt, 1), length, beams)
        found = zip(texts[0].tolist(), totals[0].tolist(), strict=True)
        return [(self.spec.decode(text), total) for text, total in found if total > -torch.inf]

    def _encode_prompt(self, text: str, rows: int) -> Tensor:
        """int64 [rows, T]; an empty prompt is a new line, as in front of a text, or else the first character."""
        vocabulary = self.spec.vocabulary
        text = text or ("\n" if "\n" in vocabulary else vocabulary[0])
        return torch.tensor([self.spec.encode(text, f"--prompt {text!r}")], device=self.device).expand(rows, -1)

    def report_samples(self, data: Any, split: str = "test") -> Samples:
        """A text at each of some temperatures."""
        texts = []
        for temperature in TEMPERATURES:
            drawn = self.generate("", SAMPLED, 1, Sampling(temperature))
            texts.append(Text(f"temperature {temperature:g}", "".join(characters[0] for characters in drawn)))
        return Samples(f"{SAMPLED} characters, sampled with seed 0.", texts=texts)

    # ------------------------------------------------------------------ steps

    def batch_from_tuple(self, tokens: Tensor, targets: Tensor | None = None) -> dict[str, Tensor]:
        return {"tokens": tokens} if targets is None else {"tokens": tokens, "targets": targets}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits, state = self(batch["tokens"], self._reset_fresh_rows(self.stream_state, batch.get("fresh")))
        self.stream_state = map_state(Tensor.detach, state)
        loss = F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), label_smoothing=self.recipe.label_smoothing)
        return self.objective(loss, batch["targets"].numel())

    def evaluation_step(self, stage: str, batch: dict[str, Tensor]) -> None:
        logits, self.evaluation_state = self(batch["tokens"], self._reset_fresh_rows(self.evaluation_state, batch.get("fresh")))
        targets = batch["targets"].flatten()
        losses = F.cross_entropy(logits.flatten(0, 1).float(), targets, reduction="none", ignore_index=IGNORE)
        self.losses[stage].update(losses, targets != IGNORE)

    @staticmethod
    def _reset_fresh_rows(state: State, fresh: Tensor | None) -> State:
        """The state with zeros for rows that begin, without a device sync; none if all do."""
        return None if fresh is None else map_state(lambda part: part.masked_fill(fresh[:, None], 0), state)

    def on_validation_epoch_start(self) -> None:
        self.evaluation_state = None

    def on_test_epoch_start(self) -> None:
        self.evaluation_state = None

    def compute_metrics(self, stage: str) -> dict[str, float]:
        self.evaluation_state = None
        losses = self.losses[stage]
        loss = float(losses.compute())
        values = {"loss": loss, "bits_per_character": loss / math.log(2), "perplexity": math.exp(min(loss, 700.0))}
        if stage == "test":
            values["characters"] = float(self.trainer.strategy.reduce(losses.count.clone(), reduce_op="sum"))
        losses.reset()
        return values

    # ------------------------------------------------------------------ checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        # every process has rows of its own: all their states are kept, in the order of the processes
        checkpoint[KEPT] = map_state(lambda part: self.all_gather(part).cpu(), self.stream_state)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        rank, world = self.trainer.global_rank, self.trainer.world_size

        def own(part: Tensor) -> Tensor:
            return (part[rank] if world > 1 else part).to(self.device)

        self.stream_state = map_state(own, checkpoint.get(KEPT))

    # ------------------------------------------------------------------ checks

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> Tensor:
        """Probabilities of the next characters, [N, T, vocabulary]."""
        return self(batch["tokens"])[0].float().softmax(-1)

    def example_batch(self, n: int, seed: int = 0) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        text = torch.randint(0, len(self.spec.vocabulary), (n, EXAMPLE_LENGTH + 1), generator=generator)
        return {"tokens": text[:, :-1], "targets": text[:, 1:], "fresh": torch.ones(n, dtype=torch.bool)}


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply a function to every tensor of a state."""
    if state is None or isinstance(state, Tensor):
        return state if state is None else function(state)
    return tuple(map_state(function, part) for part in state)
