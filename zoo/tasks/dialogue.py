"""The visual dialogue task: rounds of questions about an image, each answered given the previous ones, by ranking candidates."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from zoo.config.recipe import Recipe
from zoo.metrics.mean_loss import MeanLoss
from zoo.metrics.ranking import DEPTHS, Ranks, ndcg, ranks
from zoo.spec import END, IGNORE, PAD, SPECIAL_WORDS, DialogueSpec
from zoo.tasks.samples import SPLIT_NAMES, Samples, Scene, Turn, evenly_spread, require_some
from zoo.tasks.task import Task

SHARED = "candidate_words"  # in a batch, what is no sample's own
SHOWN = 6  # dialogues in a report


class VisualDialogue(Task):
    """Images with their rounds in, scores for the candidates of each round out (Das et al. 2017, arXiv:1611.08669).

    A batch is a dict. Of n images with up to R rounds:

        images           [n, C, H, W]   values from 0 to 255, or features [n, F, rows, columns] of a frozen encoder
        captions         int64 [n, C]   words of the caption that opens the dialogue, ``END``, ``PAD``
        questions        int64 [n, R, L]   words, ``PAD``
        answers          int64 [n, R, A]   words of the right answer, ``END``, ``PAD``
        candidates       int64 [n, R, K]   rows of ``candidate_words``
        labels           int64 [n, R]   which candidate is right; ``IGNORE`` where there is no round
        candidate_words  int64 [different candidates of the batch, A]   words, ``END``, ``PAD``
        needs_history    bool [n, R]   if the data knows: whether the question alone does not say what is meant
        relevance        [n, R, K]   if there are dense annotations: how right each candidate is; all zero where there are none

    Round t sees the caption and the questions and right answers of the rounds before it, and no later one.
    A model implements ``encode``, ``scores``, ``compute_losses``, ``generate_answer`` and ``stages``.
    """

    task = "dialogue"
    use_command = "chat {run} IMAGE"
    monitor = "mrr"
    directions = {
        "loss": "min", "mrr": "max", "mean_rank": "min", **{f"r{depth}": "max" for depth in DEPTHS}, "ndcg": "max",
        "r1_history": "max", "mrr_history": "max",
    }  # fmt: skip

    def __init__(self, spec: DialogueSpec, recipe: Recipe | None = None) -> None:
        super().__init__(spec, recipe)
        stages = ("val", "test")
        self.losses = nn.ModuleDict({stage: MeanLoss() for stage in stages})
        self.ranks = nn.ModuleDict({stage: Ranks(spec.candidates) for stage in stages})
        self.ranks_with_history = nn.ModuleDict({stage: Ranks(spec.candidates) for stage in stages})
        self.gains = nn.ModuleDict({stage: MeanLoss() for stage in stages})

    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        """Encode what each answer may depend on, [n, R, hidden]: image, caption, question and previous rounds."""
        raise NotImplementedError

    def scores(self, encoding: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Scores of the candidates, [n, R, K], higher for a more probable answer."""
        raise NotImplementedError

    def compute_losses(self, encoding: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Losses, and a mask of those that count, of the same shape."""
        raise NotImplementedError

    def generate_answer(self, batch: dict[str, Tensor]) -> list[str]:
        """Generate the words of an answer to the last question of one dialogue, which has no candidates."""
        raise NotImplementedError

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        losses, counted = self.compute_losses(self.encode(batch), batch)
        loss = (losses * counted).sum() / counted.sum().clamp(min=1)
        return self.objective(loss, len(batch["labels"]))

    def evaluation_step(self, stage: str, batch: dict[str, Tensor]) -> None:
        encoding, labels = self.encode(batch), batch["labels"]
        # where there is no round nothing is to be written either
        spare = {**batch, "answers": batch["answers"].masked_fill((labels == IGNORE)[..., None], PAD)}
        self.losses[stage].update(*self.compute_losses(encoding, spare))
        scores, counted = self.scores(encoding, batch).float(), labels != IGNORE
        rank = ranks(scores, labels)
        self.ranks[stage].update(rank, counted)
        self.ranks_with_history[stage].update(rank, counted & batch.get("needs_history", torch.zeros_like(counted)))
        relevance = batch.get("relevance", torch.zeros_like(scores)).to(scores)
        self.gains[stage].update(ndcg(scores, relevance), counted & (relevance > 0).any(-1))

    def compute_metrics(self, stage: str) -> dict[str, float]:
        with_history = self.ranks_with_history[stage].compute()
        values = {"loss": float(self.losses[stage].compute()), **self.ranks[stage].compute()}
        values |= {f"{name}_history": with_history[name] for name in ("r1", "mrr") if name in with_history}
        if math.isfinite(gain := float(self.gains[stage].compute())):  # some round had dense annotations
            values["ndcg"] = gain
        for metrics in (self.losses, self.ranks, self.ranks_with_history, self.gains):
            metrics[stage].reset()
        return values

    def part(self, batch: dict[str, Tensor], samples: slice) -> dict[str, Tensor]:
        return {name: value if name == SHARED else value[samples] for name, value in batch.items()}

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> Tensor:
        """Probabilities of the candidates, [n, R, K]."""
        return self.scores(self.encode(batch), batch).float().softmax(-1)

    def report_samples(self, data: Any, split: str = "test") -> Samples:
        """Some dialogues, with the most probable candidate in each round."""
        samples, named = data.splits[split], SPLIT_NAMES[split]
        require_some(samples, f"{named} dialogues")
        chosen = evenly_spread(len(samples), SHOWN)
        batch = samples.read(chosen)
        probability, predicted = self.predict_step({name: value.to(self.device) for name, value in batch.items()}).cpu().max(-1)
        scenes = []
        for row, index in enumerate(chosen.tolist()):
            turns = self._turns(batch, row, predicted[row], probability[row])
            scenes.append(Scene(batch["images"][row].cpu(), f"{named} image {index}", self._words(batch["captions"][row]), turns))
        about = (
            f"{len(scenes)} dialogues, evenly spaced in the {named} split. Each question follows the caption and the correct "
            f"answers to previous ones; the prediction is the most probable of {batch['candidates'].shape[-1]:,} candidates."
        )
        return Samples(about, scenes=scenes)

    def _turns(self, batch: dict[str, Tensor], row: int, predicted: Tensor, probability: Tensor) -> tuple[Turn, ...]:
        """The rounds of one dialogue."""
        turns = []
        for place, label in enumerate(batch["labels"][row].tolist()):
            question = batch["questions"][row, place]
            if question[0] == PAD:
                continue
            answer = self._words(batch[SHARED][batch["candidates"][row, place, predicted[place]]])
            is_correct = None if label == IGNORE else bool(predicted[place] == label)
            expected = self._words(batch["answers"][row, place])
            turns.append(Turn(f"{self._words(question)}?", answer, is_correct, expected, float(probability[place])))
        return tuple(turns)

    def _words(self, places: Tensor) -> str:
        return " ".join(self.spec.decode(places.tolist()))

    def example_batch(self, n: int, seed: int = 0) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        spec, rounds = self.spec, self.spec.rounds

        def words(*shape: int) -> Tensor:
            """Texts of one word or more."""
            drawn = torch.randint(len(SPECIAL_WORDS), len(spec.vocabulary), (*shape, spec.length), generator=generator)
            lengths = torch.randint(1, spec.length, (*shape, 1), generator=generator)
            places = torch.arange(spec.length)
            return drawn.masked_fill(places == lengths, END).masked_fill(places > lengths, PAD)

        known = words(2 * spec.candidates)
        candidates = torch.rand(n, rounds, len(known), generator=generator).argsort(-1)[..., : spec.candidates]
        labels = torch.randint(0, spec.candidates, (n, rounds), generator=generator)
        return {
            "images": torch.randint(0, 256, (n, *spec.image.shape), generator=generator, dtype=torch.uint8),
            "captions": words(n),
            "questions": words(n, rounds),
            "answers": known[candidates.gather(-1, labels[..., None])[..., 0]],
            "candidates": candidates,
            "labels": labels,
            SHARED: known,
        }
