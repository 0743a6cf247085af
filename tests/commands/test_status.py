"""The line about work that takes a while: on a terminal alone, and gone with the first output."""

from __future__ import annotations

import io
import sys

import pytest

from zoo.commands.status import StatusLine


class Terminal(io.TextIOWrapper):
    def __init__(self) -> None:
        super().__init__(io.BytesIO(), "utf-8", write_through=True)

    def isatty(self) -> bool:
        return True

    @property
    def content(self) -> str:
        return self.buffer.getvalue().decode()


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """What standard error is from now on."""
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "utf-8"))
    monkeypatch.setenv("TERM", "xterm")
    return stderr


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_the_first_output_to_either_stream_replaces_it(monkeypatch: pytest.MonkeyPatch, stream: str) -> None:
    shown, status = terminal(monkeypatch), StatusLine()
    status.show("loading")
    status.show("working")
    print("done", file=getattr(sys, stream))
    print("next", file=getattr(sys, stream))
    erase = "\r\x1b[2K"
    assert shown.content == f"loading ...{erase}working ...{erase}" + ("done\nnext\n" if stream == "stderr" else "")
    assert not status.text and "write" not in vars(sys.stdout) | vars(sys.stderr)


@pytest.mark.parametrize("where", ["pipe", "dumb terminal", "other process"])
def test_nothing_is_shown_elsewhere(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    shown = terminal(monkeypatch)
    if where == "pipe":
        monkeypatch.setattr(shown, "isatty", lambda: False)
    monkeypatch.setenv(*(("LOCAL_RANK", "1") if where == "other process" else ("TERM", "dumb" if where != "pipe" else "xterm")))
    status = StatusLine()
    status.show("working")
    status.clear()
    assert not shown.content


def test_a_stream_that_was_replaced_or_closed_meanwhile_can_be_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, status = terminal(monkeypatch), StatusLine()
    status.show("working")
    former = sys.stdout
    monkeypatch.setattr(sys, "stdout", None)
    status.clear()
    status.show("working")
    print("done", file=former)
    assert not status.text and shown.content.count("working ...") == shown.content.count("\x1b[2K") == 2
