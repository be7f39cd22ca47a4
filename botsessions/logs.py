"""Log records that say which update they are about, as a line of text or of JSON.

LOGGING = {
    "filters": {"update": {"()": "botsessions.logs.UpdateFilter"}},
    "formatters": {
        "line": {"format": "{asctime} {levelname} {name}{about}: {message}", "style": "{"},
        "json": {"()": "botsessions.logs.JsonFormatter"},
    },
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler", "filters": ["update"], "formatter": "line"
        },
    },
    ...
}
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Final

from botsessions.context import running

#: What a record says of its update where it is about none.
NOTHING: Final = {"bot": "", "mailbox": "", "update": "", "attempt": 0}


class UpdateFilter(logging.Filter):
    """Lets everything pass, and puts `bot`, `mailbox`, `update` and `attempt` on each record.

    Within a handler they are those of its update, whoever logs: the handler, a library, Django.
    Outside they are those that the record brings as its `extra`, or empty. `about` is them in
    words, " [bot mailbox update]" or "". It belongs to a handler of logging, not to a logger, whose
    filters do not see the records of the loggers below it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        context = running()
        about = NOTHING if context is None else context.about
        for name, value in about.items():
            vars(record).setdefault(name, value)
        words = f"{record.bot} {record.mailbox} {record.update}".strip()  # type: ignore[attr-defined]
        record.about = f" [{words}]" if words else ""
        return True


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, and where there is one the update.

    A record that `UpdateFilter` has seen has `bot`, `mailbox`, `update` and `attempt`; one with an
    exception or a stack has its text as `exc_info`.
    """

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in NOTHING:
            if value := getattr(record, name, None):
                said[name] = value
        exception = record.exc_text or (
            self.formatException(record.exc_info) if record.exc_info else ""
        )
        stack = self.formatStack(record.stack_info) if record.stack_info else ""
        if text := "\n".join(filter(None, (exception, stack))):
            said["exc_info"] = text
        # What a project's own `extra` brings under these names may be anything.
        return json.dumps(said, default=str)
