"""The page of a session: its transcript, its circumstances, and what strangers put into them."""

import json
import re
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import connection
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.timezone import localtime

from botsessions.admin.transcript import SHOWN
from botsessions.bots import bots
from botsessions.models import BotSession, BotUpdate, MailboxLease, TrackedMessage
from tests.admin.kit import (
    act_on,
    html,
    list_of,
    nothing_written,
    page_of,
    router,
    row,
    staff,
    talk,
    told,
    view_of,
)
from tests.kit import configured, message

pytestmark = pytest.mark.django_db

QUERIES = 12

#: What has been markup, an address or an escape somewhere.
PAYLOADS = [
    "<script>alert(1)</script>",
    "<ScRiPt>alert(1)</ScRiPt>",
    "<script src=//evil.example/x.js></script>",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<img/src/onerror=alert(1)>",
    "<IMG SRC=`javascript:alert(1)`>",
    '<img src="x" style="width:expression(alert(1))">',
    "<svg onload=alert(1)>",
    "<svg/onload=alert(1)//",
    "<svg><script>alert&#40;1)</script>",
    "<svg><animate onbegin=alert(1) attributeName=x>",
    "<math><a xlink:href=javascript:alert(1)>x",
    "<body onload=alert(1)>",
    "<iframe src=javascript:alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<object data=javascript:alert(1)>",
    "<embed src=javascript:alert(1)>",
    "<form action=javascript:alert(1)><input type=submit>",
    "<button formaction=javascript:alert(1)>x</button>",
    "<a href=javascript:alert(1)>x</a>",
    '<a href="data:text/html;base64,PHNjcmlwdD4=">x</a>',
    "<details open ontoggle=alert(1)>",
    "<video><source onerror=alert(1)>",
    "<audio src=x onerror=alert(1)>",
    "<input autofocus onfocus=alert(1)>",
    "<select autofocus onfocus=alert(1)>",
    "<textarea autofocus onfocus=alert(1)>",
    "</textarea><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</pre><script>alert(1)</script>",
    "--><script>alert(1)</script>",
    "<!--<img src=--><img src=x onerror=alert(1)>",
    "]]><script>alert(1)</script>",
    '"><script>alert(1)</script>',
    "'><script>alert(1)</script>",
    '" onmouseover="alert(1)" x="',
    "' onmouseover='alert(1)' x='",
    "`onmouseover=alert(1)`",
    "https://example.org/<script>alert(1)</script>",
    'https://example.org/"onmouseover="alert(1)',
    "https://example.org/'onmouseover='alert(1)",
    "javascript:alert(1)//https://example.org",
    "<base href=//evil.example/>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<style>@import'//evil.example/x.css';</style>",
    "<meta http-equiv=refresh content='0;url=javascript:alert(1)'>",
    "{{ request.user.password }}{% debug %}<b>",
    "<x\x00 onclick=alert(1)>y",
    "\u202e<marquee onstart=alert(1)>",
]
#: What all of these are compared with: it makes a link and a mark, as some of them may.
HARMLESS = "plain https://example.org \u202e"


class Elements(HTMLParser):
    """The elements of a page with the names of their attributes, but for what texts may have."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, ...]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        is_mark = tag == "span" and values.get("class") == "bs-unseen"
        is_link = (
            tag == "a"
            and [*values] == ["href", "rel", "target"]
            and (values["href"] or "").startswith(("http://", "https://"))
        )
        if not (is_mark or is_link):
            self.found.append((tag, *(name for name, _ in attrs)))


def stored(**fields: Any) -> BotSession:
    now = timezone.now()
    defaults: dict[str, Any] = {"bot": "demo", "chat": "c1", "user": "ann", "is_open": True}
    return BotSession.objects.create(created_at=now, updated_at=now, **defaults | fields)


def said(session: BotSession, *texts: str, **fields: Any) -> list[TrackedMessage]:
    defaults: dict[str, Any] = {"chat": "c1", "direction": "incoming", "user": "ann"}
    fields = {"sent_at": timezone.now(), **defaults, **fields}
    return [
        TrackedMessage.objects.create(
            session=session, message_id=f"{n}-{text[:20]!r}", text=text, **fields
        )
        for n, text in enumerate(texts)
    ]


async def clear(row: BotSession) -> int:
    cleared: int = await bots[row.bot].sessions.get(row.chat, row.user).clear()
    return cleared


def test_many_payloads_are_tried() -> None:
    assert len(set(PAYLOADS)) >= 50


def pages_of(text: str, operator: Client) -> dict[str, list[tuple[str, ...]]]:
    """Return the elements of every page on which a text of strangers stands."""
    text = text.replace("\0", "")[:64]  # which no database keeps, and no longer than an id
    session = stored(
        chat=f"{text}.", user=text, thread=text, qualifier=text, data={text: [text]},
        quarantined=text, flow={"name": text, "operator": text, "began_at": text},
        last_flow={"error": text}, matcher=text,
    )  # fmt: skip
    said(session, text, kind=text, user=text)
    update = BotUpdate.objects.create(
        bot="demo", update_id=text, type=text, mailbox=text, status="parked", error=text,
        payload={text: text}, journal=[text], received_at=timezone.now(),
    )  # fmt: skip
    lease = MailboxLease.objects.create(
        key=text, token=text, acquired_at=timezone.now(), expires_at=timezone.now()
    )
    act = f"{list_of('botsession')}act/close/?ids={session.pk}"
    pages = [
        page_of(session), act, *(view_of(session, name) for name in ("data", "erase", "export")),
        view_of(session, "messages"), list_of("botsession"), list_of("trackedmessage"),
        list_of("botupdate"), page_of(update), list_of("mailboxlease"), page_of(lease),
    ]  # fmt: skip
    found = {re.sub(r"\d+", "", url): Elements(html(operator.get(url))).found for url in pages}
    for each in (session, update, lease):
        each.delete()
    return found


@pytest.mark.parametrize("start", range(0, len(PAYLOADS), 13))
def test_what_strangers_say_is_never_markup(start: int, operator: Client) -> None:
    """Every page has the elements that it has for a harmless text."""
    expected = pages_of(HARMLESS, operator)
    for payload in PAYLOADS[start : start + 13]:
        found = pages_of(payload, operator)
        # The ids of leases are in addresses.
        for url, other in zip(found, expected, strict=True):
            assert found[url] == expected[other], (payload, url)


def test_payloads_would_be_found() -> None:
    """The check above is one that can fail."""
    harmless = [
        each
        for each in PAYLOADS
        if Elements(f'<p title="{each}">{each}</p>').found == [("p", "title")]
    ]
    assert len(harmless) <= 5, harmless


def test_transcript_is_a_chat(operator: Client) -> None:
    """P32: direction, kind, time, edited; what cannot be seen is marked; addresses are links."""
    session = stored()
    said(session, "See https://example.org/a?b=1&c=2, or ftp://x and javascript:alert(1)")
    said(session, "", kind="photo", direction="outgoing", edited_at=timezone.now())
    said(session, "abc\u202egnp.exe\x07")
    page = html(operator.get(page_of(session)))
    address = "https://example.org/a?b=1&amp;c=2"
    rel = 'rel="noopener noreferrer nofollow" target="_blank"'
    assert f'<a href="{address}" {rel}>{address}</a>, or ftp://x and javascript:alert(1)' in page
    assert page.count("bs-incoming") == 2
    assert page.count("bs-outgoing") == 1
    assert ">photo<" in page
    assert ">edited<" in page
    assert '<span class="bs-unseen">⟦U+202E⟧</span>gnp.exe' in page
    assert "⟦U+0007⟧" in page
    assert "\u202e" not in page


def test_deleted_messages_stand_in_their_place(operator: Client) -> None:
    """P32: that they were there, when they left and whether they are gone; no text of theirs."""
    session, now = stored(), timezone.now()
    texts = ["first", "deleted", "gone", "left to others", "too old", "forbidden", "failed", "last"]
    rows = said(session, *(f"said {text}" for text in texts), reply_to="before")
    outcomes = ["deleted", "gone", "", "too_old", "forbidden", "failed"]
    for each, outcome in zip(rows[1:-1], outcomes, strict=True):
        each.deleted_at, each.outcome, each.text = now + timedelta(hours=1), outcome, ""
        each.save()
    page = html(operator.get(page_of(session)))
    bubbles = re.findall(r'data-id="(\d+)".*?</li>', page, re.DOTALL)
    assert [int(each) for each in bubbles] == [each.pk for each in rows]
    when = date_format(localtime(now + timedelta(hours=1)), "SHORT_DATETIME_FORMAT")
    shown = [
        re.sub(r"<[^>]*>", "", each)
        for each in re.findall(r'<p class="bs-deleted">(.*?)</p>', page)
    ]
    assert shown == [
        f"deleted {when}",
        f"deleted {when}",
        f"cleared {when}",
        f"cleared {when} (too old to be deleted on the platform)",
        f"cleared {when} (the platform does not let the bot delete it)",
        f"cleared {when} (the platform did not delete it)",
    ]
    assert (page.count("(no text)"), page.count("said first"), page.count("said last")) == (0, 1, 1)
    listed = html(operator.get(list_of("botsession")))
    assert '<td class="field-messages_counted">2</td>' in listed
    act, _ = act_on("clear", session)
    confirmed = html(operator.get(f"{act}?ids={session.pk}"))
    assert "Messages in their transcripts: 2" in confirmed
    assert html(operator.get(list_of("trackedmessage"))).count("(cleared)") == len(outcomes)
    exported = json.loads(operator.post(view_of(session, "export"), {"what": "json"}).content)
    assert [each["outcome"] for each in exported["messages"]] == ["", *outcomes, ""]
    assert [each["deleted_at"] is None for each in exported["messages"]].count(True) == 2
    header = operator.post(view_of(session, "export"), {"what": "csv"}).content.decode()
    assert ",deleted_at,outcome," in header.split("\r\n")[0]


def test_a_message_that_the_bot_clears_stands_there_as_deleted(operator: Client) -> None:
    talk(message("tea"))
    assert async_to_sync(clear)(row()) == 1
    page = html(operator.get(page_of(row())))
    assert "heard tea" not in page
    assert page.count('<p class="bs-deleted">deleted ') == 1


def test_transcript_is_read_page_by_page(operator: Client) -> None:
    session, other = stored(), stored(user="ben")
    said(other, "not this")
    ids = [each.pk for each in said(session, *(f"number {n}" for n in range(SHOWN * 2 + 5)))]
    url = view_of(session, "messages")

    def shown(**parameters: int) -> tuple[list[int], str]:
        page = html(operator.get(url, parameters))
        return [int(each) for each in re.findall(r'data-id="(\d+)"', page)], page

    newest, page = shown()
    assert newest == ids[-SHOWN:]
    assert f'data-before="{newest[0]}"' in page
    middle, page = shown(before=newest[0])
    assert middle == ids[5 : SHOWN + 5]
    oldest, page = shown(before=middle[0])
    assert oldest == ids[:5]
    assert "data-before" not in page
    assert shown(after=ids[-3])[0] == ids[-2:]
    assert shown(after=ids[-1])[0] == []
    assert "<html" not in page
    # Without JavaScript the link leads to the page itself.
    assert f'data-id="{ids[0]}"' in html(operator.get(page_of(session), {"before": middle[0]}))
    for nonsense in ("x", "-1", "9" * 40, "\0"):
        assert operator.get(url, {"before": nonsense, "after": nonsense}).status_code == 200


def test_page_tells_flow_lease_and_updates(operator: Client) -> None:
    """P32."""
    talk(message("tea"), message("/fail"), message("/ask"))
    now = timezone.now()
    MailboxLease.objects.create(
        key="demo:ann:ann", token="web-7", acquired_at=now - timedelta(minutes=3),
        expires_at=now + timedelta(minutes=1),
    )  # fmt: skip
    page = html(operator.get(page_of(row())))
    for part in ("<dd>ask</dd>", "9\xa0minutes left", "web-7", "3\xa0minutes", "heard tea"):
        assert part in page, part
    assert "&quot;said&quot;" in page
    assert ">done<" in page
    assert ">parked<" in page


def test_page_takes_few_queries_and_writes_nothing(operator: Client) -> None:
    talk(*(message(f"tea {n}") for n in range(5)), message("/ask"))
    eve = staff(
        "view_botsession", "view_trackedmessage", "view_botupdate", "view_mailboxlease",
        "change_botsession", "send_botsession",
    )  # fmt: skip
    for client in (operator, eve):
        for url in (page_of(row()), view_of(row(), "messages"), list_of("botsession")):
            with nothing_written(), CaptureQueriesContext(connection) as captured:
                html(client.get(url))
            assert len(captured) <= QUERIES, [each["sql"] for each in captured]


def test_what_may_not_be_seen_is_not_shown() -> None:
    talk(message("a secret"))
    eve = staff("view_botsession")
    page = html(eve.get(page_of(row(qualifier="order"))))
    assert "You may not see messages" in page
    for part in ("bs-message", "bs-act bs-act-c", "bs-composer", "Lease", "Updates"):
        assert f">{part}<" not in page
        assert f'class="{part}' not in page
    assert eve.get(view_of(row(), "messages")).status_code == 403
    assert Client().get(view_of(row(), "messages")).status_code == 302
    assert staff(name="bob").get(page_of(row())).status_code == 403
    assert eve.get(page_of(row()).replace(f"{row().pk}", "987654")).status_code == 404


def test_a_session_of_a_bot_that_is_gone_is_shown(operator: Client) -> None:
    talk(message("tea"))
    BotSession.objects.update(bot="gone")
    page = html(operator.get(page_of(row())))
    assert "bot not configured" in page
    assert "heard tea" in page
    assert "bs-composer" not in page
    for name in ("messages", "export", "erase", "send"):
        assert operator.get(view_of(row(), name)).status_code == 200
    assert operator.get(view_of(row(), "data")).status_code == 302
    page = html(operator.post(view_of(row(), "erase"), {"whom": "user"}))
    assert "Not erased: its bot is not configured" in page


@pytest.mark.parametrize(
    "wrong", [{"platform": "no.such.Platform"}, {"store": "absent"}, {"STORES": {}}]
)
def test_a_bot_whose_settings_are_wrong_breaks_no_page(
    wrong: dict[str, Any], operator: Client
) -> None:
    talk(message("tea"))
    with override_settings(BOTSESSIONS=configured(router, **wrong)):
        assert "heard tea" in html(operator.get(page_of(row())))
        for name in ("data", "export", "erase"):
            assert operator.get(view_of(row(), name)).status_code in (200, 302)
        page = html(operator.post(view_of(row(), "send"), {"text": "hello"}))
        assert "Not sent: " in page
        url, named = act_on("close", row())
        assert "demo:ann:ann: " in told(operator.post(url, named, follow=True))[0]
    assert row().is_open


def test_names_and_replies_are_shown_as_they_were_said(operator: Client) -> None:
    """P26: escaped like everything of strangers; sessions are found by them."""
    talk(message("tea"))
    session = row()
    first = session.messages.get()
    TrackedMessage.objects.create(
        session=session, chat="ann", message_id="77", direction="incoming", user="ann",
        name="Ann <b>Lee</b>", reply_to=first.message_id or "", text="why?",
        sent_at=timezone.now(),
    )  # fmt: skip
    TrackedMessage.objects.create(
        session=session, chat="ann", message_id="78", direction="incoming", user="ann",
        name="Ann <b>Lee</b>", reply_to="long ago", text="and?", sent_at=timezone.now(),
    )  # fmt: skip
    page = html(operator.get(page_of(session)))
    assert "Ann &lt;b&gt;Lee&lt;/b&gt;" in page
    assert "<b>Lee</b>" not in page
    assert f'href="#bs-m{first.pk}"' in page
    assert f'id="bs-m{first.pk}"' in page
    assert "in reply to another message" in page
    listed = html(operator.get(list_of("botsession"), {"q": "lee"}))
    assert "Ann &lt;b&gt;Lee&lt;/b&gt;" in listed
    assert "1 session" in listed
