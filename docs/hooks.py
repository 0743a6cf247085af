"""What MkDocs does to a page before it is rendered."""

import re


def on_page_markdown(markdown: str, **kwargs: object) -> str:
    """Drop the notes for tests behind a block's language, which MkDocs does not understand; ``file=NAME`` becomes a title."""
    return re.sub(r"^(```\w+) (.+)$", _without_notes, markdown, flags=re.MULTILINE)


def _without_notes(fence: re.Match[str]) -> str:
    name = re.search(r"file=(\S+)", fence[2])
    return f'{fence[1]} title="{name[1]}"' if name else fence[1]
