"""What a captioner writes about test pictures."""

from __future__ import annotations

from zoo.pictures.shown import select_images
from zoo.report.samples.samples import SampleImage, Samples, Trained, data_address

SHOWN = 8


def ask_captioner(trained: Trained) -> Samples:
    """Captions of some test pictures."""
    task = trained.task
    shown = select_images(trained.registry, trained.run, task.spec, (), "", (), SHOWN, SHOWN)
    written = task.generate(task.encode(shown.images.to(task.device)), task.beams)
    said = [" ".join(task.spec.decode(row)) for row in written.tolist()]
    images = [SampleImage(data_address(i), None, n, s) for i, n, s in zip(shown.images, shown.names, said, strict=True)]
    return Samples(f"Captions of {len(images)} pictures from all over the test split.", images=images)
