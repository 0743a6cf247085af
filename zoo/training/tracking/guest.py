"""A tracker as a guest: its calls run in a thread of their own, so that it can neither block a training nor stop it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from zoo.core.errors import first_line
from zoo.training.run_folder import RunFolder
from zoo.training.tracking.tracker import Tracker

OPENING_SECONDS = 15.0
MOST_WAITING = 1000  # calls; a tracker that is so far behind does not respond


class Guest:
    """Calls the methods of a tracker in order. Its first failure is one warning, after which it is not called any more."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self._waiting: queue.SimpleQueue[tuple[Callable[[], Any], str, threading.Event]] = queue.SimpleQueue()
        self._is_working = True
        work = copy_context().run  # runs are found where they are for the caller
        threading.Thread(target=work, args=(self._serve,), name=f"tracker {tracker.title}", daemon=True).start()

    def open(self) -> None:
        """Start the tracker, within a time limit."""
        self._wait(self.call("open", failing="cannot be started"), OPENING_SECONDS, "cannot be started")

    def call(self, method: str, *arguments: Any, failing: str = "stops") -> threading.Event:
        """Put a call into the queue and return at once.

        Returns:
            What is set when the call is done, or passed over because the tracker does not work any more.
        """
        done = threading.Event()
        if self._is_working and self._waiting.qsize() >= MOST_WAITING:
            self._stop(f"{failing}: no response, {MOST_WAITING:,} records wait")
        if self._is_working:
            self._waiting.put((lambda: getattr(self.tracker, method)(*arguments), failing, done))
        else:
            done.set()
        return done

    def upload(self, folder: RunFolder) -> None:
        """Log the trained weights, within the time limit of the tracker."""
        failing = "has no trained weights"
        done = self.call("log_trained", folder, failing=failing)
        if seconds := self.tracker.upload_seconds(folder):
            self._wait(done, seconds, failing)

    def close(self, exit_code: int = 0) -> None:
        """End the tracker within its time limit; what was not sent stays where the tracker keeps it."""
        incomplete = "upload is incomplete"
        if not self._is_working:  # the warning was given, but a run that was opened must still be ended
            incomplete = ""
        done = threading.Event()
        self._waiting.put((lambda: self.tracker.close(exit_code), incomplete, done))
        self._wait(done, self.tracker.closing_seconds, incomplete)

    def _serve(self) -> None:
        while True:
            call, failing, done = self._waiting.get()
            try:
                if self._is_working or not failing:
                    call()
            except BaseException as error:  # a library may also exit
                self._stop(f"{failing}: {first_line(error)}")
            finally:
                done.set()

    def _wait(self, done: threading.Event, seconds: float, failing: str) -> None:
        if not done.wait(seconds):
            self.tracker.is_lost = True
            self._stop(f"{failing}: no response within {seconds:.0f} s")

    def _stop(self, what: str) -> None:
        """Give one warning, and call the tracker no more."""
        if self._is_working:
            self._is_working = False
            self.tracker.warn(what)
