"""What the outputs of a network of images are, for others: files, model cards, programs and servers."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Outputs:
    """The outputs of a network, as its task describes them.

    Attributes:
        network: what it is, as in "an image classifier with 10 classes".
        name: of the output in a graph, as in "probabilities".
        title: heading of the list of outputs.
        names: of each output.
        notes: on each output, as long as ``names``; empty for none.
        about: sentences on all of them.
        meaning: sentences on what to expect of them, for readers.
        from_logits: what follows the network of a library in Python, as in ".softmax(1)".
        metadata: for exported files, as text by key.
        scales: of each output, by which differences are divided; empty for 1.
        pipeline: on a model hub; empty for none.
    """

    network: str
    name: str
    title: str
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    about: str = ""
    meaning: str = ""
    from_logits: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    scales: tuple[float, ...] = ()
    pipeline: str = "image-classification"
