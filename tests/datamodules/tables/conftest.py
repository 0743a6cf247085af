"""The library ``datasets`` without a network and with an empty cache."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from datasets import config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "pictures"
