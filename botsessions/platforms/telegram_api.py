"""The client of Telegram's Bot API: POST JSON, read JSON.

Making requests: https://core.telegram.org/bots/api#making-requests. An address holds the bot's
token, and what aiohttp raises quotes addresses: none of its errors leaves this module, not even as
the cause or context of ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

import aiohttp
import msgspec
from yarl import URL

from botsessions.exceptions import (
    InvalidRequest,
    PlatformError,
    PlatformUnavailable,
    error_of,
)

_HEADERS: Final = {"Content-Type": "application/json"}
_MAX_DESCRIPTION: Final = 500
#: What is shorter is no secret, and would be found in innocent words.
_SECRET_LENGTH: Final = 8


class _Answer(msgspec.Struct):
    """What every method answers; only `ok` is relied upon."""

    ok: bool
    result: Any = None
    error_code: Any = None
    description: Any = None
    parameters: Any = None


_decode_answer = msgspec.json.Decoder(_Answer).decode


class BotApi:
    """The Bot API with one bot's token, at `base_url` (Telegram's own, a local server, a stub).

    Connections are kept for each event loop that calls; they close with it, or by `close()`.
    """

    def __init__(self, token: str, base_url: str, timeout: float) -> None:
        self._token = token
        self._base_url = base_url.rstrip("/")
        self._timeout = timeout
        self._client_timeout = self._limits(0)
        self._urls: dict[str, URL] = {}
        self._sessions: dict[asyncio.AbstractEventLoop, aiohttp.ClientSession] = {}
        self._keepers: dict[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] = {}

    async def call(self, method: str, parameters: Mapping[str, Any], *, wait: float = 0) -> Any:
        """Call a method and return its `result`; parameters that are None are left out.

        `wait` is for how long the method itself may take, in seconds. Raises a `PlatformError`:
        `PlatformUnavailable.sent` is False when no connection was made.
        """
        if not (method.isascii() and method.isalpha()):
            raise InvalidRequest(f"{method!r} is no method's name: it consists of letters.")
        answer = await self._exchange(method, self._encode(method, parameters), wait)
        if isinstance(answer, PlatformError):
            # Raised here, where aiohttp's error is not its context and no local variable of the
            # traceback holds an address: error pages show those.
            raise answer
        return answer.result

    async def _exchange(self, method: str, body: bytes, wait: float) -> _Answer | PlatformError:
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop) or await self._open(loop)
        try:
            async with session.post(
                self._urls.get(method) or self._url(method),
                data=body,
                headers=_HEADERS,
                timeout=self._limits(wait) if wait else self._client_timeout,
                allow_redirects=False,
            ) as response:
                content = await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            return PlatformUnavailable("no connection could be made", method=method, sent=False)
        except TimeoutError:
            return PlatformUnavailable("no answer came in time", method=method)
        except (aiohttp.ClientError, OSError) as error:
            return PlatformUnavailable(
                f"the connection broke ({type(error).__name__})", method=method
            )
        try:
            answer = _decode_answer(content)
        except (ValueError, RecursionError):
            answer = None
        if answer is not None and answer.ok:
            return answer
        retry_after = response.headers.get("Retry-After")
        return self._failure(method, response.status, retry_after, answer)

    async def close(self) -> None:
        """Close the running loop's connections; the next call opens new ones."""
        keeper = self._keepers.pop(asyncio.get_running_loop(), None)
        if keeper is not None:
            await keeper.aclose()

    def _limits(self, wait: float) -> aiohttp.ClientTimeout:
        # Connecting has its own limit, so that running out of it is known to have sent nothing.
        return aiohttp.ClientTimeout(
            total=2 * self._timeout + wait, connect=self._timeout, sock_read=self._timeout + wait
        )

    def _url(self, method: str) -> URL:
        url = self._urls[method] = URL(f"{self._base_url}/bot{self._token}/{method}", encoded=True)
        return url

    def _encode(self, method: str, parameters: Mapping[str, Any]) -> bytes:
        given = {name: value for name, value in parameters.items() if value is not None}
        try:
            return msgspec.json.encode(given)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest(f"the parameters are no JSON: {error}", method=method) from error

    async def _open(self, loop: asyncio.AbstractEventLoop) -> aiohttp.ClientSession:
        for other in [other for other in self._sessions if other.is_closed()]:
            self._sessions.pop(other, None)
            self._keepers.pop(other, None)
        keeper = self._keepers[loop] = self._keep_session(loop)
        await anext(keeper)
        return self._sessions[loop]

    async def _keep_session(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[None, None]:
        """Hold a session open until closed, by `close()` or by the loop.

        A loop that ends closes its asynchronous generators (`shutdown_asyncgens`), which is the one
        word it has for us: `asyncio.run` and `async_to_sync` leave no connection behind.
        """
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            self._sessions[loop] = session
            try:
                yield
            finally:
                self._sessions.pop(loop, None)
                self._keepers.pop(loop, None)

    def _failure(
        self, method: str, status: int, retry_after: str | None, answer: _Answer | None
    ) -> PlatformError:
        """Return the error of an answer that is none, or not `ok`."""
        if answer is None:
            return PlatformUnavailable(
                f"the answer (HTTP {status}) is none of a Bot API", method=method, code=status
            )
        code = answer.error_code
        if type(code) is not int:
            code = status
        parameters = answer.parameters if isinstance(answer.parameters, dict) else {}
        details: dict[str, Any] = {
            "method": method,
            "code": code,
            "retry_after": _seconds(parameters.get("retry_after")) or _seconds(retry_after),
            "parameters": parameters,
        }
        text = answer.description
        text = self._scrub(text) if isinstance(text, str) and text else f"error {code}"
        return error_of(code if code >= 400 else 500, text)(text, **details)

    def _scrub(self, text: str) -> str:
        for secret in (self._token, self._token.partition(":")[2]):
            if len(secret) >= _SECRET_LENGTH:
                text = text.replace(secret, "***")
        return text[:_MAX_DESCRIPTION]


def _seconds(value: Any) -> float | None:
    """Return a number of seconds above 0, or None; a date, which HTTP allows here, is none."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    return value if type(value) in (int, float) and value > 0 else None
