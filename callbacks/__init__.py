"""Lightning callbacks for any Lightning project: they know nothing of the zoo.

Names are imported when they are used, so that ``zoo.callbacks.sparkline`` alone does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.callbacks.activation_statistics import ActivationStatistics
    from zoo.callbacks.autopsy import NonFinite, NonFiniteAutopsy, replay_file
    from zoo.callbacks.diagnosis import Diagnosis
    from zoo.callbacks.findings import Finding
    from zoo.callbacks.gradient_monitor import GradientMonitor
    from zoo.callbacks.progress import TrainingProgress
    from zoo.callbacks.recording import Monitor, RecordListener
    from zoo.callbacks.throughput import Throughput

__all__ = [
    "ActivationStatistics",
    "Diagnosis",
    "Finding",
    "GradientMonitor",
    "Monitor",
    "NonFinite",
    "NonFiniteAutopsy",
    "RecordListener",
    "Throughput",
    "TrainingProgress",
    "replay_file",
]
MODULES = ("activation_statistics", "autopsy", "diagnosis", "findings", "gradient_monitor", "progress", "recording", "throughput")


def __getattr__(name: str) -> Any:
    if name in __all__:
        modules = (import_module(f"{__name__}.{module}") for module in MODULES)
        return next(getattr(module, name) for module in modules if hasattr(module, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
