"""A run as notebooks show it: metrics, learning curves and findings, as HTML without scripts."""

from __future__ import annotations

from html import escape

from zoo.config.run import Run
from zoo.core.errors import UserError
from zoo.registry.registry import current_registry
from zoo.report.history import read_history
from zoo.training.exported import ExportedFile
from zoo.training.run_folder import RunFolder
from zoo.training.weights.published import PublishedNetwork

MOST_FINDINGS = 5


def render(source: RunFolder | ExportedFile | PublishedNetwork, run: Run, metrics: dict[str, float]) -> str:
    """HTML of a run, an exported file or a published network; ``metrics`` are those of the test."""
    if isinstance(source, PublishedNetwork):
        return f"<div><h4>{escape(source.name)}: {source.kind}</h4></div>"
    heading = f"{source.path.name}: {run.network} on {run.data_title}"
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{value:.4f}</td></tr>" for name, value in metrics.items())
    parts = [f"<h4>{escape(heading)}</h4>", f"<table>{rows}</table>" if rows else ""]
    if isinstance(source, RunFolder):
        parts += [_curves(source), _findings(source)]
    return f"<div>{''.join(parts)}</div>"


def _curves(folder: RunFolder) -> str:
    from zoo.pictures.curves import curves
    from zoo.pictures.figure import style, svg_text

    try:
        with style():
            image = svg_text(curves(current_registry(), [folder]).figure)
    except UserError:  # nothing was recorded yet
        return ""
    return image.replace("<svg ", '<svg style="max-width: 100%; height: auto" ', 1)  # as wide as the cell at most


def _findings(folder: RunFolder) -> str:
    found = read_history(folder.path).findings[:MOST_FINDINGS]
    texts = (f"{f.fields['severity']}: {f.fields['name']} in {f.fields['where']}: {f.fields['evidence']}" for f in found)
    return "".join(["<ul>", *(f"<li>{escape(text)}</li>" for text in texts), "</ul>"]) if found else ""
