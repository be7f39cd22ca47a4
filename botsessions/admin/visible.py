"""Texts of strangers, as they can be shown: escaped, and nothing in them invisible.

Control characters, those that turn the direction of writing, and those without width are shown by
their code point, ⟦U+202E⟧: they hide what a text says, or make it look like another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

#: What shows nothing of itself. Left out are what emoji (200D) and Persian (200C) are written with.
UNSEEN = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f"
    r"\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e007f"
)
_unseen = re.compile(f"[{UNSEEN}]")
_breaks = re.compile(r"[\t\n]")
_pieces = re.compile(
    rf"(?P<link>https?://[^\s<>\"'`{UNSEEN}]*[^\s<>\"'`.,:;!?)\]}}{UNSEEN}])|(?P<unseen>[{UNSEEN}])",
    re.IGNORECASE,
)


def visible(text: object) -> str:
    """Return a text with what cannot be seen as code points; line breaks stay."""
    return _unseen.sub(_code_point, f"{text}".replace("\r\n", "\n"))


def line(text: object) -> str:
    """Return a text as one line of it, as `visible` does."""
    return _breaks.sub(_code_point, visible(text))


def _code_point(found: re.Match[str]) -> str:
    return f"⟦U+{ord(found[0]):04X}⟧"


def spelled(text: str) -> str:
    """Return JSON with what cannot be seen as escapes of JSON's own."""
    return _unseen.sub(lambda found: json.dumps(found[0])[1:-1], text)


def prose(text: str) -> SafeString:
    """Return a text as HTML: what cannot be seen is marked, and addresses are links."""
    return format_html_join("", "{}", ((piece,) for piece in _html(text.replace("\r\n", "\n"))))


def _html(text: str) -> Iterator[str]:
    end = 0
    for found in _pieces.finditer(text):
        yield text[end : found.start()]
        end = found.end()
        if found["unseen"]:
            yield format_html('<span class="bs-unseen">{}</span>', _code_point(found))
        else:
            yield format_html(
                '<a href="{}" rel="noopener noreferrer nofollow" target="_blank">{}</a>',
                found["link"],
                found["link"],
            )
    yield text[end:]


def indented(value: Any) -> SafeString:
    """Return JSON to be read by people."""
    return preformatted("" if value is None else json.dumps(value, ensure_ascii=False, indent=2))


def preformatted(text: str) -> SafeString:
    """Return a text whose line breaks and indentation are kept."""
    if not text:
        return SafeString("-")
    return format_html('<pre class="bs-pre" tabindex="0">{}</pre>', visible(text))
