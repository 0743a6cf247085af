"""Damaged files in a folder."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
import torch
from image_folders import all_pixels, make, picture, ready, save, sizes

from zoo.core.errors import UserError


def bomb(path: Path) -> None:
    """A PNG of 30000x30000 pixels in a few bytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">2I5B", 30000, 30000, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b""))


@pytest.fixture
def damaged(root) -> Path:
    make(root, 10)
    bomb(root / "cat" / "bomb.png")
    whole = save(root / "dog" / "cut.jpg", picture(12, 12)).read_bytes()
    (root / "dog" / "cut.jpg").write_bytes(whole[: len(whole) - 60])
    (root / "dog" / "empty.gif").write_bytes(b"")
    (root / "dog" / "page.jpg").write_text("<html>")
    (root / "dog" / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    return root


def test_what_cannot_be_read_is_left_out_and_listed(damaged, capfd):
    for _ in range(2):  # decoded, then from the cache
        data = ready(damaged, validation=0)
        (told,) = capfd.readouterr().err.splitlines()
        assert told.startswith("warning: 5 of 25 images cannot be read and are skipped: ")
        assert "bomb.png" in told and "and 2 more" in told
        names = ["bomb.png", "cut.jpg", "empty.gif", "page.jpg", "script.png"]
        assert [path.name for path in data.unreadable] == names
        assert data.spec.shape == (3, 12, 12)
        assert sizes(data) == {"train": 18, "val": 0, "test": 2}
        assert len(torch.cat([all_pixels(data, "train"), all_pixels(data, "test")])) == 20
        assert all(int(split.labels.sum()) == len(split) // 2 for split in data.splits.values())


def test_strict_refuses_it(damaged):
    for _ in range(2):
        with pytest.raises(UserError, match=r"bomb.png: is not a readable image \(5 such.*data.strict=false") as error:
            ready(damaged, strict=True)
        assert "\n" not in str(error.value)
