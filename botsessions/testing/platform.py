"""The platform of the test kit: a local one that does what the test says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from botsessions.context import running
from botsessions.platforms.base import Deletion
from botsessions.platforms.local import LocalPlatform
from botsessions.testing.crashes import Process
from botsessions.testing.faults import Fault, Status, platform_error
from botsessions.testing.messages import ChatMessage


class Call(NamedTuple):
    """A call that the bot made of its platform."""

    method: str
    parameters: dict[str, Any]


class ScriptedPlatform(LocalPlatform):
    """A chat network in memory that notes what the bot does, and fails when a test says so.

    It has no rates, and nothing waits: the clock stands still. A 429 is met by the handler at once,
    as elsewhere one is that asks for more than RATE_WAIT seconds.
    """

    is_paced: ClassVar[bool] = False

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        super().__init__(alias, options)
        #: Every call of the bot, also those that failed: of "send", of "delete_messages", and of
        #: whatever it called by name.
        self.calls: list[Call] = []
        #: Every message that the bot sent, as it was then.
        self.sent: list[ChatMessage] = []
        self._options: dict[str, Mapping[str, Any]] = {}
        self._faults: list[Fault] = []
        self._results: dict[str, Any] = {}

    # What a test says

    def fail_next(
        self,
        status: Status,
        retry_after: float | None = None,
        *,
        times: int = 1,
        method: str | None = None,
        description: str = "",
    ) -> None:
        """Let the next calls fail, `times` of them, as if the platform answered with `status`.

        The bot meets the `PlatformError` that its own platform would raise: `RateLimited` for 429,
        `Forbidden` for 401 and 403, `NotFound` for 404, `InvalidRequest` for any other 4xx,
        `PlatformUnavailable` for a 5xx, for "timeout" and for "unreachable". `method` is "send",
        "delete_messages" or the name of a call, None for any. The call itself does nothing.
        """
        error = platform_error(status, retry_after=retry_after, description=description)
        self._faults.append(Fault(error, times, method))

    def respond(self, method: str, result: Any = True) -> None:
        """Let calls of a method that only the real platform has return this.

        A function is called with their parameters.
        """
        self._results[method] = result

    # What the bot does

    async def send(self, chat: str, text: str, **options: Any) -> dict[str, Any]:
        """Record a message of the bot; Telegram's inline keyboards are buttons like others."""
        self._begin("send", {"chat": chat, "text": text, **options})
        buttons = options.get("buttons") or inline_buttons(options.get("reply_markup"))
        message = await super().send(chat, text, **{**options, "buttons": buttons})
        self._note(message, options)
        return message

    async def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the local platform, or one that the test responds to."""
        if method == "send":
            return await super().call(method, **parameters)
        self._begin(method, parameters)
        if method in self._results:
            result = self._results[method]
            return result(**parameters) if callable(result) else result
        result = await super().call(method, **parameters)
        if method == "album":
            for message in result:
                self._note(message, {})
        return result

    async def delete_messages(
        self, chat: str, ids: Sequence[str], business: str = ""
    ) -> dict[str, Deletion]:
        """Delete messages of a chat; those that are not there are `GONE`."""
        self._begin("delete_messages", {"chat": chat, "ids": list(ids)})
        return await super().delete_messages(chat, ids, business)

    def _begin(self, method: str, parameters: dict[str, Any]) -> None:
        """Note a call, and raise what it is to meet."""
        context = running()
        if context is not None and isinstance(context.engine, Process):
            context.engine.check_alive()
        self.calls.append(Call(method, parameters))
        for fault in self._faults:
            error = fault.meet(method)
            if error is not None:
                self._faults = [each for each in self._faults if not each.is_over]
                raise error

    def _note(self, message: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        sent = ChatMessage.of(message, options)
        self._options[sent.id] = options
        self.sent.append(sent)

    # What a test reads

    def history(self, chat: str) -> list[ChatMessage]:
        """Return what stands in a chat, as it reads now, the oldest first."""
        messages = self.network.history(chat, limit=2**31)["messages"]
        return [
            ChatMessage.of(each, self._options.get(str(each["message_id"]))) for each in messages
        ]

    def said(self) -> list[ChatMessage]:
        """Return what the bot said in all chats and did not delete, as it reads now, in order."""
        chats = {each.chat for each in self.sent}
        messages = [each for chat in chats for each in self.history(chat) if each.is_bot]
        return sorted(messages, key=lambda each: int(each.id))


def inline_buttons(markup: Any) -> list[tuple[str, str]]:
    """Return the buttons of a Telegram inline keyboard that carry callback data.

    https://core.telegram.org/bots/api#inlinekeyboardmarkup
    """
    rows = markup.get("inline_keyboard", ()) if isinstance(markup, Mapping) else ()
    return [
        (str(button.get("text", "")), str(button["callback_data"]))
        for row in rows
        for button in row
        if "callback_data" in button
    ]
