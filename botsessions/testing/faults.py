"""What can go wrong with a chat platform, as the error that a real one would raise."""

from __future__ import annotations

from typing import Any, Literal

from botsessions.exceptions import PlatformError, PlatformUnavailable, error_of

#: An HTTP status, no answer in time, or no connection.
Status = int | Literal["timeout", "unreachable"]


def platform_error(
    status: Status, *, method: str = "", retry_after: float | None = None, description: str = ""
) -> PlatformError:
    """Return what a call raises that is answered with this status, or not at all.

    It is the error that `TelegramPlatform` makes of the same answer.
    """
    if status == "timeout":
        return PlatformUnavailable(description or "no answer came in time", method=method)
    if status == "unreachable":
        return PlatformUnavailable(
            description or "no connection could be made", method=method, sent=False
        )
    if not (isinstance(status, int) and 400 <= status < 600):
        raise ValueError(
            'A call fails with a status from 400 to 599, "timeout" or "unreachable", '
            f"not {status!r}."
        )
    text = description or f"error {status}"
    details: dict[str, Any] = {"method": method, "code": status, "retry_after": retry_after}
    if retry_after is not None:
        details["parameters"] = {"retry_after": retry_after}
    return error_of(status, text)(text, **details)


class Fault:
    """An error that the next calls meet: so many of them, of one method or of any."""

    def __init__(self, error: PlatformError, times: int, method: str | None) -> None:
        self._error = error
        self._times = times
        self._method = method

    @property
    def is_over(self) -> bool:
        """Has it been met as often as it was to be?"""
        return self._times <= 0

    def meet(self, method: str) -> PlatformError | None:
        """Return the error that a call of this method meets, None where it is not for it."""
        if self.is_over or self._method not in (None, method):
            return None
        self._times -= 1
        error = self._error
        met = type(error)(
            error.description,
            method=error.method or method,
            code=error.code,
            retry_after=error.retry_after,
            parameters=error.parameters,
        )
        if isinstance(error, PlatformUnavailable) and isinstance(met, PlatformUnavailable):
            met.sent = error.sent
        return met
