"""Tables and charts as W&B takes them.

Charts use Vega specifications that every W&B server has, and tables that are logged with them, so nothing is downloaded.
"""

from __future__ import annotations

import wandb
from wandb.plot import CustomChart

from zoo.tasks.samples import Samples
from zoo.training.tracking.media import picture
from zoo.training.tracking.tables import DepthChart, Table


def as_wandb(table: Table | DepthChart) -> wandb.Table | CustomChart:
    if isinstance(table, Table):
        return wandb.Table(columns=list(table.columns), data=table.rows)
    return wandb.plot.line_series(
        xs=[[place for place, _ in line] for line in table.lines.values()],
        ys=[[value for _, value in line] for line in table.lines.values()],
        keys=list(table.lines),
        title=table.title,
        xname="place",
    )


def confusion_chart(table: Table) -> CustomChart:
    fields = {column: column for column in table.columns}
    return wandb.plot_table("wandb/confusion_matrix/v1", as_wandb(table), fields=fields, string_fields={"title": "test images"})


def sample_table(samples: Samples) -> wandb.Table | None:
    """Samples as a table, None without any: a row for each classified image, each question about an image, or each text."""
    if samples.images:
        table = wandb.Table(columns=["image", "label", "prediction", "probability"])
        for each in samples.images:
            table.add_data(wandb.Image(picture(each.image)), each.label, each.predicted, each.probability)
    elif samples.scenes:
        table = wandb.Table(columns=["image", "title", "question", "prediction", "expected", "correct", "probability"])
        for scene in samples.scenes:
            image = wandb.Image(picture(scene.image))
            for turn in scene.turns:
                answer = (turn.question, turn.answer, turn.expected, turn.is_correct, turn.probability)
                table.add_data(image, scene.title, *answer)
    elif samples.texts:
        table = wandb.Table(columns=["title", "text"], data=[[text.title, text.text] for text in samples.texts])
    else:
        return None
    return table
