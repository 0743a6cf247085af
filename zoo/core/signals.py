"""The one owner of the signals that ask a process to stop: SIGINT, SIGTERM, SIGHUP and SIGUSR1."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

from zoo.core.errors import Interrupted
from zoo.core.ranks import is_follower

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
NUMBERS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))  # Windows has only the first two
REPEAT_SECONDS = 1.0  # timeout(1), terminals and launchers send a signal several times


class Stopped(BaseException):
    """A request to stop inside of Lightning, which would end the process itself at a KeyboardInterrupt."""


class StopRequest:
    """The request to stop of this process.

    The first signal is recorded and, unless a training holds it until it can save, raised at once as ``error``. Signals within
    a second of it belong to the same request. A later one ends a command at once with exit code 130, whatever its main thread
    waits for; in any other program it is raised.

    Attributes:
        requested: whether a signal was received.
        was_raised: whether it was raised where it was received, in any operation.
        error: what a signal raises in the main thread; None holds it until somebody asks for ``requested``.
        farewell: completes the line that a command prints before it ends at once.
        children: processes to kill then.
    """

    def __init__(self) -> None:
        self.requested = self.was_raised = False
        self.error: type[BaseException] | None = Interrupted
        self.farewell: Callable[[str], str] = str
        self.children: list[Any] = []
        self._since = 0.0
        self._owner: int | None = None  # process id
        self._former: dict[int, Any] = {}
        self._is_command = False

    @contextmanager
    def owned(self, is_command: bool = False) -> Iterator[None]:
        """Receive the signals inside, but for those that the process was started to ignore, as by ``nohup``.

        Only the main thread receives signals: in any other this does nothing, nor does it inside of another ``owned``.

        Args:
            is_command: the process is the command's: the second signal ends it.
        """
        if self._owner is not None or threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {number: signal.getsignal(number) for number in NUMBERS}
        self._former = {number: handler for number, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}
        self.requested = self.was_raised = False
        self._owner, self._is_command = os.getpid(), is_command
        try:
            with self._watched() if is_command else nullcontext():
                for number in self._former:
                    signal.signal(number, self._receive)
                yield
        finally:
            for number, handler in self._former.items():
                signal.signal(number, handler)
            self._owner = None

    @contextmanager
    def raising(self, error: type[BaseException]) -> Iterator[None]:
        """Raise another exception inside."""
        former, self.error = self.error, error
        try:
            yield
        finally:
            self.error = former

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Hold the first signal until the end, where it is raised: for C++ that aborts the process at an exception."""
        former, self.error = self.error, None
        try:
            yield
        finally:
            self.error = former
        if self.requested and not self.was_raised and former is not None:
            self.was_raised = True
            raise former

    def release(self, error: type[BaseException]) -> None:
        """Raise the signals that come from now on, and the one that was held.

        Raises:
            BaseException: ``error``, if a signal was received.
        """
        self.error = error
        if self.requested:
            raise error

    def _receive(self, number: int, frame: Any) -> None:
        is_first, self.requested = not self.requested, True
        if is_first:
            self._since = time.monotonic()
        elif time.monotonic() - self._since < REPEAT_SECONDS or self._is_command:
            return  # the thread that watches ends a command
        if self.error is not None:
            self.was_raised = True
            raise self.error
        if not is_first:
            raise Stopped

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Watch for the second signal in a thread, as the main thread calls handlers only between two operations of Python."""
        received, sent = socket.socketpair()
        sent.setblocking(False)
        former = signal.set_wakeup_fd(sent.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(received,), name="signals", daemon=True).start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(former)
            sent.close()

    def _watch(self, received: socket.socket) -> None:
        first = None
        with received:
            while number := received.recv(1):
                if number[0] not in NUMBERS:
                    continue
                first = first or time.monotonic()
                if time.monotonic() - first >= REPEAT_SECONDS:
                    self.end(130, "interrupted")

    def end(self, code: int, text: str) -> None:
        """End this process and its children at once, from any thread."""
        if not is_follower():
            with suppress(OSError):  # the terminal was closed
                os.write(2, f"\n{self.farewell(text)}\n".encode(errors="backslashreplace"))
        workers = sys.modules["multiprocessing"].active_children() if "multiprocessing" in sys.modules else []
        for child in (*self.children, *workers):
            child.kill()
        os._exit(code)

    def _forget(self) -> None:
        """In a forked process, which is another's to stop, restore the former handlers."""
        if self._owner is not None:
            signal.set_wakeup_fd(-1)
            for number, handler in self._former.items():
                signal.signal(number, handler)
            self.__init__()  # type: ignore[misc]


stop = StopRequest()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=stop._forget)
