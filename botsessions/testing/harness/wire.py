"""What the parent and a worker tell each other: one JSON object a line, over a socket."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from botsessions.updates import Update


class Sign(StrEnum):
    """What a worker does to itself."""

    KILL = "kill"
    PAUSE = "pause"


class Deliver(msgspec.Struct, tag="deliver"):
    """An update for the worker; its answer carries the number."""

    number: int
    update: Update


class Obey(msgspec.Struct, tag="obey"):
    """Be killed or paused where the engine next reaches a point.

    That is with an update of that command or, if none comes soon, with any.
    """

    sign: Sign
    point: str
    command: str


class Ready(msgspec.Struct, tag="ready"):
    """The worker's engine has started."""


class Answer(msgspec.Struct, tag="answer"):
    """The update was acknowledged; with an error it was not, and is to be delivered again."""

    number: int
    error: str = ""


class Reached(msgspec.Struct, tag="reached"):
    """The worker is about to obey."""


#: What the parent says, and what a worker says.
Request = Deliver | Obey
Report = Ready | Answer | Reached

requests = msgspec.json.Decoder(Request)
reports = msgspec.json.Decoder(Report)


def line(message: Request | Report) -> bytes:
    return msgspec.json.encode(message) + b"\n"
