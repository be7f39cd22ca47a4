"""A Bot API server for tests: real HTTP on loopback, with Telegram's rules for deleting."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import defaultdict, deque
from dataclasses import dataclass, field
from enum import Enum, auto
from types import TracebackType
from typing import Any, Self

from aiohttp import web

NOT_ALLOWED = "Bad Request: message can't be deleted"
TOO_OLD = "Bad Request: message can't be deleted for everyone"


class Fault(Enum):
    """What can go wrong between a bot and Telegram."""

    #: The answer never comes.
    SILENCE = auto()
    #: The connection is reset after the request arrived.
    RESET = auto()
    #: A page of some proxy, with HTTP 502.
    BAD_GATEWAY = auto()
    #: HTTP 200, and no JSON.
    GIBBERISH = auto()


@dataclass
class Call:
    """A call as it arrived."""

    method: str
    parameters: dict[str, Any]
    token: str


class Refusal(Exception):
    """What the API answers when it does not do it."""

    def __init__(self, code: int, description: str, **parameters: Any) -> None:
        super().__init__(description)
        self.answer: dict[str, Any] = {"ok": False, "error_code": code, "description": description}
        if parameters:
            self.answer["parameters"] = parameters


@dataclass
class StubBotApi:
    """A context manager with the server in a thread; `url` is for the option `api_url`.

    `calls` holds what arrived. `plan` puts answers before the ordinary ones: a dict is answered as
    it is (with its `error_code` as HTTP status), bytes are with HTTP 200, a `Fault` happens, None
    is the ordinary answer.
    `protected` gives the reason why a message may not be deleted.
    """

    token: str = "123456:stub-api-token_of-tests"
    url: str = ""
    calls: list[Call] = field(default_factory=list)
    #: (chat, message id) of what is there.
    sent: dict[tuple[Any, int], dict[str, Any]] = field(default_factory=dict)
    protected: dict[tuple[Any, int], str] = field(default_factory=dict)
    updates: list[dict[str, Any]] = field(default_factory=list)
    webhook: dict[str, Any] = field(default_factory=dict)
    #: How many connections were made.
    connections: int = 0

    def __post_init__(self) -> None:
        self._planned: dict[str, deque[Any]] = defaultdict(deque)
        self._last_id = 0
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def plan(self, method: str, *answers: dict[str, Any] | bytes | Fault | None) -> None:
        """Let the next calls of a method be answered so."""
        self._planned[method].extend(answers)

    def methods(self) -> list[str]:
        """Return the methods called, in order."""
        return [call.method for call in self.calls]

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._started.wait(10):
            raise RuntimeError("the stub of the Bot API did not start")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)

    # The server

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        app = web.Application()
        app.router.add_post("/bot{token}/{method}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        host, port = site._server.sockets[0].getsockname()  # type: ignore[attr-defined]
        self.url = f"http://{host}:{port}"
        self._started.set()
        await self._stopping.wait()
        await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        method = request.match_info["method"]
        transport = request.transport
        if transport is not None and not getattr(transport, "counted", False):
            self.connections += 1
            transport.counted = True  # type: ignore[attr-defined]
        parameters = await request.json()
        self.calls.append(Call(method, parameters, request.match_info["token"]))
        planned = self._planned[method].popleft() if self._planned[method] else None
        if isinstance(planned, Fault):
            return await self._fail(planned, request)
        if isinstance(planned, bytes):
            return web.Response(body=planned, content_type="application/json")
        if planned is None:
            planned = self._answer(request.match_info["token"], method, parameters)
        status = planned.get("error_code", 200)
        return web.json_response(planned, status=status if isinstance(status, int) else 400)

    async def _fail(self, fault: Fault, request: web.Request) -> web.StreamResponse:
        if fault is Fault.SILENCE:
            await self._stopping.wait()
        if fault is Fault.RESET and request.transport is not None:
            request.transport.abort()
        if fault is Fault.BAD_GATEWAY:
            return web.Response(status=502, text=f"<h1>Bad Gateway</h1>{request.path}")
        return web.Response(text=f"<p>{request.path}</p>", content_type="text/html")

    def _answer(self, token: str, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        try:
            if token != self.token:
                raise Refusal(401, "Unauthorized")
            action = getattr(self, f"_do_{method}", None)
            if action is None:
                raise Refusal(404, "Not Found")
            known = inspect.signature(action).parameters
            if "options" not in known:  # a method ignores what it has no use for
                parameters = {name: parameters[name] for name in known if name in parameters}
            return {"ok": True, "result": action(**parameters)}
        except Refusal as refusal:
            return refusal.answer

    # Methods

    def _do_getMe(self) -> dict[str, Any]:
        return {"id": 123456, "is_bot": True, "first_name": "Stub", "username": "stub_bot"}

    def _do_sendMessage(self, chat_id: Any, text: str, **options: Any) -> dict[str, Any]:
        if not text:
            raise Refusal(400, "Bad Request: message text is empty")
        return self._say(chat_id, {"text": text}, options)

    def _do_sendMediaGroup(
        self, chat_id: Any, media: list[dict[str, Any]], **options: Any
    ) -> list[dict[str, Any]]:
        if not 2 <= len(media) <= 10:
            raise Refusal(400, "Bad Request: wrong number of media in the album")
        album = {"photo": [], "media_group_id": str(13_000_000_000 + self._last_id)}
        captions = [{"caption": each["caption"]} if "caption" in each else {} for each in media]
        return [self._say(chat_id, album | caption, options) for caption in captions]

    def _say(
        self, chat_id: Any, content: dict[str, Any], options: dict[str, Any]
    ) -> dict[str, Any]:
        self._last_id += 1
        message = {
            "message_id": self._last_id,
            "from": self._do_getMe(),
            "chat": {"id": chat_id, "type": "private", "first_name": "Somebody"},
            "date": 1_780_000_000,
            **content,
        }
        for name in ("message_thread_id", "business_connection_id", "reply_markup"):
            if name in options:
                message[name] = options[name]
        if "message_thread_id" in options:
            message["is_topic_message"] = True
        self.sent[chat_id, self._last_id] = message
        return message

    def _do_copyMessage(self, chat_id: Any, from_chat_id: Any, message_id: int) -> dict[str, Any]:
        if (from_chat_id, message_id) not in self.sent:
            raise Refusal(400, "Bad Request: message to copy not found")
        return self._do_copyMessages(chat_id, from_chat_id, [message_id])[0]

    def _do_copyMessages(
        self, chat_id: Any, from_chat_id: Any, message_ids: list[int]
    ) -> list[dict[str, Any]]:
        found = [self.sent.get((from_chat_id, number)) for number in message_ids]
        copies = [self._say(chat_id, {"text": each["text"]}, {}) for each in found if each]
        if not copies:
            raise Refusal(400, "Bad Request: there are no messages to copy")
        return [{"message_id": each["message_id"]} for each in copies]

    def _do_forwardMessage(
        self, chat_id: Any, from_chat_id: Any, message_id: int
    ) -> dict[str, Any]:
        if (from_chat_id, message_id) not in self.sent:
            raise Refusal(400, "Bad Request: message to forward not found")
        return self._say(chat_id, {"text": self.sent[from_chat_id, message_id]["text"]}, {})

    def _do_forwardMessages(
        self, chat_id: Any, from_chat_id: Any, message_ids: list[int]
    ) -> list[dict[str, Any]]:
        return self._do_copyMessages(chat_id, from_chat_id, message_ids)

    def _do_answerCallbackQuery(self, callback_query_id: str, **options: Any) -> bool:
        return True

    def _do_editMessageText(
        self, text: str, chat_id: Any = None, message_id: int = 0, inline_message_id: str = ""
    ) -> dict[str, Any] | bool:
        if chat_id is None and inline_message_id:
            return True
        if (chat_id, message_id) not in self.sent:
            raise Refusal(400, "Bad Request: message to edit not found")
        message = self.sent[chat_id, message_id]
        message |= {"text": text, "edit_date": 1_780_000_060}
        return message

    def _do_deleteMessage(self, chat_id: Any, message_id: int) -> bool:
        if (chat_id, message_id) not in self.sent:
            raise Refusal(400, "Bad Request: message to delete not found")
        return self._do_deleteMessages(chat_id, [message_id])

    def _do_deleteMessages(self, chat_id: Any, message_ids: list[int]) -> bool:
        if not 1 <= len(message_ids) <= 100:
            raise Refusal(400, "Bad Request: too many messages to delete")
        found = [(chat_id, number) for number in message_ids if (chat_id, number) in self.sent]
        for key in found:
            if key in self.protected:
                raise Refusal(400, self.protected[key])
        for key in found:
            del self.sent[key]
        return True

    def _do_deleteBusinessMessages(
        self, business_connection_id: str, message_ids: list[int]
    ) -> bool:
        chats = {
            chat
            for (chat, _), message in self.sent.items()
            if message.get("business_connection_id") == business_connection_id
        }
        if not chats:
            raise Refusal(400, "Bad Request: business connection not found")
        for chat in chats:
            self._do_deleteMessages(chat, message_ids)
        return True

    def _do_setWebhook(self, url: str, **options: Any) -> bool:
        self.webhook = {"url": url, **options}
        return True

    def _do_getWebhookInfo(self) -> dict[str, Any]:
        return {
            "url": self.webhook.get("url", ""),
            "has_custom_certificate": False,
            "pending_update_count": len(self.updates),
        }

    def _do_deleteWebhook(self, drop_pending_updates: bool = False) -> bool:
        self.webhook = {}
        if drop_pending_updates:
            self.updates.clear()
        return True

    def _do_getUpdates(
        self, offset: int = 0, timeout: int = 0, allowed_updates: list[str] | None = None
    ) -> list[dict[str, Any]]:
        if self.webhook:
            raise Refusal(
                409,
                "Conflict: can't use getUpdates method while webhook is active;"
                " use deleteWebhook to delete the webhook first",
            )
        self.updates = [update for update in self.updates if update["update_id"] >= offset]
        return self.updates[:100]
