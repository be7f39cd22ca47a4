"""What a waiter decides about its own end."""

from __future__ import annotations

from datetime import datetime, timedelta

from botsessions import clock
from botsessions.flows.state import FlowState, span
from botsessions.updates import Message


class SessionController:
    """The control of a running waiter, for a parameter annotated so, or named `control`.

    A run that calls neither `keep` nor `stop` leaves the waiter waiting, on the deadline it had.
    """

    def __init__(self, state: FlowState) -> None:
        self._state = state
        self._deadline = state.deadline
        self._is_kept = False
        self.is_stopped = False
        self.error: BaseException | None = None

    @property
    def deadline(self) -> datetime | None:
        """When it times out, unless it is kept; None for never."""
        return self._deadline

    @property
    def name(self) -> str:
        """The waiter's name."""
        return self._state.name

    def keep(self, timeout: timedelta | float | None = 0, reset_timeout: bool = False) -> None:
        """Go on waiting.

        With `reset_timeout` the deadline is `timeout` seconds (or a timedelta) from now, never with
        None; without, it is moved by so much, which may be negative. Where that is not after now
        the waiter ends when this run does, normally and not as timed out.
        """
        if reset_timeout:
            self._deadline = None if timeout is None else clock.now() + span(timeout)
        elif timeout is not None and self._deadline is not None:
            self._deadline += span(timeout)
        self._is_kept = True

    def stop(self, error: BaseException | None = None) -> None:
        """End the waiter when this run ends; with an error, as failed. A second call is nothing."""
        if not self.is_stopped:
            self.is_stopped = True
            self.error = error

    def get_history_chains(self) -> list[Message]:
        """Return what was said to the waiter so far, this message too, where it records that."""
        return list(self._state.history)

    # For the dispatch

    @property
    def goes_on(self) -> bool:
        """Does the waiter wait on, now that its run is over?"""
        return not self.is_stopped and not self._is_over()

    @property
    def is_kept(self) -> bool:
        """Was it kept, so that a timeout does not end it?"""
        return self._is_kept and self.goes_on

    def _is_over(self) -> bool:
        return self._is_kept and self._deadline is not None and self._deadline <= clock.now()
