"""What a network answers in dialogues about test pictures, in the light of what was said before."""

from __future__ import annotations

from torch import Tensor

from zoo.report.samples.samples import Samples, Scene, Trained, Turn, evenly_spread, require_some, scene_address
from zoo.spec import IGNORE, PAD, DialogueSpec
from zoo.tasks.dialogue import SHARED

SHOWN = 6


def ask_in_dialogues(trained: Trained) -> Samples:
    """Some test dialogues, and the candidate that is chosen in each of their rounds."""
    task, data = trained.task, trained.open_data()
    split = data.splits["test"]
    require_some(split, "test dialogues")
    chosen = evenly_spread(len(split), SHOWN)
    batch = split.batch(next(split.images.batches(iter([chosen]))), chosen)
    probability, said = task.predict_step({name: value.to(task.device) for name, value in batch.items()}).cpu().max(-1)
    scenes = []
    for row, index in enumerate(chosen.tolist()):
        caption = " ".join(task.spec.decode(batch["captions"][row].tolist()))
        turns = _turns(task.spec, batch, row, said[row], probability[row])
        scenes.append(Scene(scene_address(batch["images"][row].cpu()), f"test picture {index}", caption, turns))
    about = (
        f"{len(scenes)} dialogues from all over the test split. Each question is put after the caption and the right answers to "
        f"those before it; what is said is the likeliest of {batch['candidates'].shape[-1]:,} candidates."
    )
    return Samples(about, scenes=scenes)


def _turns(spec: DialogueSpec, batch: dict[str, Tensor], row: int, said: Tensor, probability: Tensor) -> tuple[Turn, ...]:
    """The rounds of one dialogue."""

    def words(places: Tensor) -> str:
        return " ".join(spec.decode(places.tolist()))

    turns = []
    for place, label in enumerate(batch["labels"][row].tolist()):
        question = batch["questions"][row, place]
        if question[0] == PAD:
            continue
        picked = batch["candidates"][row, place, said[place]]
        is_right = None if label == IGNORE else bool(said[place] == label)
        answer = words(batch["answers"][row, place])
        turns.append(Turn(f"{words(question)}?", words(batch[SHARED][picked]), is_right, answer, float(probability[place])))
    return tuple(turns)
