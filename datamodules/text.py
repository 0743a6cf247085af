"""Texts to model by characters: your own files, Shakespeare, and the manual inside Python."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from zoo.core.download import fetch
from zoo.core.files import cache_folder, expanded
from zoo.datamodules.bases.data_module import FileContent
from zoo.datamodules.bases.language_modeling import TextData
from zoo.registry.entry import register_data
from zoo.spec import TextSpec
from zoo.text.files import named_texts, read_text


@register_data("text", task="language-modeling", tags=["local-files"])
class TextFiles(TextData):
    """Your own text, in UTF-8: a file, or all files of a folder in the order of their names, of each of which a part is held out.

    Args:
        root: text file, or folder of text files.
    """

    def __init__(self, batch_size: int, seed: int, root: str, **options: Any) -> None:
        super().__init__(batch_size, seed, **options)
        self.root = expanded(root)
        self._kept: frozenset[str] | None = None
        self._named: dict[str, str] = {}

    def load_text(self) -> str:
        return "\n".join(self.load_texts())

    def load_texts(self) -> list[str]:
        self._named = named_texts(self.root, f"data.root={self.root}", self.is_kept)
        return list(self._named.values())

    def files(self, content: bool = True) -> dict[str, Iterable[FileContent]]:
        """All files as those of training, of each of which a part is held out."""
        digests = {name: sha256(text.encode()).digest()[:16] for name, text in self._named.items()}
        return {"train": [FileContent(name, digest) for name, digest in digests.items()]}

    def keep_only(self, names: Collection[str]) -> None:
        self._kept = frozenset(names)

    def is_kept(self, name: str) -> bool:
        """Whether a file is not left out by ``keep_only``."""
        if self._kept is not None and name not in self._kept:
            self.added.append(name)
            return False
        return True


@register_data("shakespeare", task="language-modeling")
class Shakespeare(TextData):
    """Tiny Shakespeare, a million characters of plays: 1,115,394, of which 65 are distinct (Karpathy 2015).

    Args:
        root: the file, its folder, or the folder to download to; default: bestiary's cache.
    """

    mirrors = (
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
    )
    sha256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

    def __init__(self, batch_size: int, seed: int, root: str = "", **options: Any) -> None:
        super().__init__(batch_size, seed, **options)
        self.root = expanded(root) if root else None

    @property
    def spec(self) -> TextSpec:
        if self._spec is None:  # known before anything is fetched
            letters = "".join(chr(ord("A") + place) for place in range(26))
            self._spec = TextSpec(tuple(sorted("\n !$&',-.3:;?" + letters + letters.lower())))
        return self._spec

    def download(self) -> None:
        self._file()

    def load_text(self) -> str:
        file = self._file()
        return read_text(file, str(file))

    def _file(self) -> Path:
        """The file that ``root`` is or holds, or else fetched into it."""
        if self.root and self.root.is_file():
            return self.root
        for name in ("input.txt", "shakespeare.txt") if self.root else ():
            if (self.root / name).is_file():
                return self.root / name
        folder = self.root or cache_folder() / "shakespeare"
        return fetch("input.txt", *(f"{url}#sha256={self.sha256}" for url in self.mirrors), folder=folder)


@register_data("pydoc", task="language-modeling", tags=["offline"])
class PythonReference(TextData):
    """Python's reference manual, included: the text of help("for") and of all other topics.

    Its length and characters are those of the Python that runs.
    """

    def load_text(self) -> str:
        from pydoc_data.topics import topics

        return "\n\n".join(text for _, text in sorted(topics.items()))
