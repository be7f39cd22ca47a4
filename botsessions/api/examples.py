"""Examples of requests and answers, for the schema."""

from __future__ import annotations

from typing import Any, Final

from drf_spectacular.utils import OpenApiExample


def _asked(name: str, value: Any) -> OpenApiExample:
    return OpenApiExample(name, value, request_only=True)


def _answered(name: str, value: Any, status: int = 200) -> OpenApiExample:
    return OpenApiExample(name, value, response_only=True, status_codes=[f"{status}"])


_ROW: Final = {
    "id": 12,
    "bot": "shop",
    "chat": "4711",
    "user": "4711",
    "thread": "",
    "qualifier": "order",
    "version": 7,
    "is_open": True,
    "flow": "ask_address",
    "operator": None,
    "is_quarantined": False,
    "expires_at": None,
    "created_at": "2026-11-01T09:00:00Z",
    "updated_at": "2026-11-01T09:12:30.250000Z",
}
_DATA: Final = {"items": ["tea", "milk"]}
_DELETION: Final = {
    "id": 3,
    "bot": "shop",
    "through": "shop",
    "status": "running",
    "selection": {"bot": "shop", "sessions": [12]},
    "total": 250,
    "done": 100,
    "deleted": 99,
    "gone": 0,
    "too_old": 1,
    "forbidden": 0,
    "failed": 0,
    "requested_by": "eve",
    "created_at": "2026-11-01T09:15:00Z",
    "finished_at": None,
}

BOT: Final = _answered(
    "A bot", {"alias": "shop", "platform": "telegram", "key": "chat_user", "store": "default"}
)
SESSION_ROW: Final = _answered("A session", _ROW)
SESSION: Final = _answered(
    "A session",
    {
        **_ROW,
        "data": _DATA,
        "quarantined": None,
        "deadline": "2026-11-01T09:22:30Z",
        "last_flow": None,
    },
)
DATA: Final = _asked("Other data", {"data": {"items": ["tea"]}})
RESUME: Final = _asked("Handle what was said", {"handles": True})
MESSAGE: Final = _answered(
    "A message",
    {
        "id": 99,
        "chat": "4711",
        "message_id": "1200",
        "direction": "incoming",
        "kind": "text",
        "is_service": False,
        "user": "4711",
        "name": "Ann",
        "reply_to": "",
        "business": "",
        "text": "tea",
        "sent_at": "2026-11-01T09:12:30Z",
        "edited_at": None,
        "deleted_at": None,
        "outcome": "",
        "update_id": "734512",
    },
)
SEND: Final = _asked("A message", {"text": "Your order is on its way."})
SELECTION: Final = _asked(
    "What the bot said in orders", {"bot": "shop", "qualifier": "order", "direction": "outgoing"}
)
DELETION: Final = _answered("A deletion", _DELETION, 202)
ERASE: Final = _asked("A user", {"user": "4711", "delete_messages": True})
ERASURE: Final = _answered(
    "A receipt",
    {
        "id": 5,
        "bot": "shop",
        "kind": "user",
        "subject": "9f2c6d0e5a7b4c318d2e6f90a1b2c3d4e5f60718293a4b5c6d7e8f9012345678",
        "counts": {},
        "deletion": None,
        "requested_by": "eve",
        "created_at": "2026-11-01T09:30:00Z",
        "finished_at": None,
    },
    202,
)
#: A problem of each status: its code, and what is said.
PROBLEMS: Final = {
    400: ("invalid", "Some of what was sent is not valid."),
    401: ("token_unknown", "There is no such token."),
    403: ("permission_denied", "You do not have permission to perform this action."),
    404: ("not_found", "Not found."),
    409: ("mailbox_busy", "The mailbox shop:4711:4711 was not free within 10 seconds."),
    412: ("session_conflict", "The session was saved meanwhile: it is of version 8 now."),
    413: ("body_too_large", "The body is larger than 1,048,576 bytes."),
    415: ("unsupported_media_type", 'Unsupported media type "text/plain" in request.'),
    422: ("invalid_session_data", "The data is no Cart: Expected `array`, got `str`."),
    428: ("precondition_required", "Send If-Match with the ETag of what you have read."),
    429: ("throttled", "Request was throttled. Expected available in 12 seconds."),
    502: ("platform_unavailable", "sendMessage: no answer. It may have been done all the same."),
    503: ("unavailable", "The database does not answer."),
}
