"""What MkDocs does to a page before it is rendered."""

import re


def on_page_markdown(markdown: str, **kwargs: object) -> str:
    """Turn the notes for tests behind a block's language into what MkDocs understands: a file's name is the title."""
    markdown = re.sub(r"^(```\w+) file=(\S+)$", r'\1 title="\2"', markdown, flags=re.MULTILINE)
    return re.sub(r"^(```\w+) (?:skip|fails)$", r"\1", markdown, flags=re.MULTILINE)
