"""What an operator may do to sessions: verbs over `operations.operators`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from django import forms
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from botsessions import operations
from botsessions.admin.failures import Refused
from botsessions.admin.verbs import Verb, by_bot
from botsessions.models import BotSession
from botsessions.operations import operators
from botsessions.operations.selection import Selection

Rows = Sequence[BotSession]

#: How many sessions one deletion is begun for here: their ids go through an address.
CLEARED = 400


class HandBackForm(forms.Form):
    """What becomes of what was said while the operator talked."""

    meanwhile = forms.ChoiceField(
        label=gettext_lazy("What was said meanwhile"),
        choices=[
            ("skip", gettext_lazy("Skip it: it stays in the transcript, no handler sees it")),
            ("handle", gettext_lazy("Give it to the bot's handlers now, in order")),
        ],
        widget=forms.RadioSelect,
        initial="skip",
    )


def clear(rows: Rows, *, by: str) -> str:
    """Begin one deletion for sessions of one bot."""
    operators.bot_of(rows[0])
    selection = Selection(rows[0].bot, sessions=[row.pk for row in rows])
    deletion = operations.begin_deletion(selection, requested_by=by)
    text = ngettext(
        "Began deletion %(pk)d of the messages of this session.",
        "Began deletion %(pk)d of the messages of %(count)d sessions, this among them.",
        len(rows),
    )
    return text % {"pk": deletion.pk, "count": len(rows)}


def forget(rows: Rows, *, by: str) -> str:
    count = operators.forget(rows[0])
    text = ngettext("Forgot %(count)d message.", "Forgot %(count)d messages.", count)
    return text % {"count": count}


def close(rows: Rows, *, by: str) -> str:
    operators.close(rows[0])
    return _("Closed the session.")


def reset(rows: Rows, *, by: str) -> str:
    operators.reset(rows[0])
    return _("Reset the data.")


def end_flow(rows: Rows, *, by: str) -> str:
    if not operators.end_flow(rows[0]):
        raise Refused(_("no flow waits there."))
    return _("Ended the flow.")


def take_over(rows: Rows, *, by: str) -> str:
    if not operators.take_over(rows[0], by):
        raise Refused(_("an operator is talking there already."))
    return _("Took the session over from the bot.")


def hand_back(rows: Rows, *, by: str, meanwhile: str) -> str:
    handles = meanwhile == "handle"
    count = operators.hand_back(rows[0], handles=handles)
    if handles:
        text = ngettext(
            "Handed back to the bot, with %(count)d update for its handlers.",
            "Handed back to the bot, with %(count)d updates for its handlers.",
            count,
        )
    else:
        text = ngettext(
            "Handed back to the bot; %(count)d update was skipped.",
            "Handed back to the bot; %(count)d updates were skipped.",
            count,
        )
    return text % {"count": count}


def counted(one: str, many: str, count: int) -> str:
    return ngettext(one, many, count) % {"count": count}


CLEAR = Verb(
    "clear",
    "clear_botsession",
    gettext_lazy("Clear messages"),
    gettext_lazy(
        "The tracked messages are deleted on the platform and here, as one deletion that goes on "
        "by itself. What is said from now on stays. This cannot be taken back."
    ),
    clear,
    partial(
        counted,
        "A deletion of the messages of %(count)d session has begun.",
        "A deletion of the messages of %(count)d sessions has begun.",
    ),
    batches=by_bot,
    most=CLEARED,
    is_grave=True,
)
FORGET = Verb(
    "forget",
    "forget_botsession",
    gettext_lazy("Forget messages"),
    gettext_lazy(
        "The tracked messages are removed here and stay on the platform: the bot can delete them "
        "no more. This cannot be taken back."
    ),
    forget,
    partial(
        counted,
        "The messages of %(count)d session were forgotten.",
        "The messages of %(count)d sessions were forgotten.",
    ),
    is_grave=True,
)
CLOSE = Verb(
    "close",
    "close_botsession",
    gettext_lazy("Close"),
    gettext_lazy(
        "Nothing that is said there is tracked any more, and the transcript is emptied here. The "
        "data stays, and so do the messages on the platform."
    ),
    close,
    partial(counted, "%(count)d session was closed.", "%(count)d sessions were closed."),
    is_grave=True,
)
RESET = Verb(
    "reset",
    "reset_botsession",
    gettext_lazy("Reset data"),
    gettext_lazy(
        "The data is deleted, and begins anew with the next update. This cannot be taken back."
    ),
    reset,
    partial(
        counted,
        "The data of %(count)d session was reset.",
        "The data of %(count)d sessions was reset.",
    ),
    is_grave=True,
)
END_FLOW = Verb(
    "end-flow",
    "end_flow_botsession",
    gettext_lazy("End flow"),
    gettext_lazy(
        "The waiter or conversation that waits there is cancelled, and told so: it may say a word "
        "in farewell."
    ),
    end_flow,
    partial(
        counted,
        "The flow of %(count)d session was ended.",
        "The flows of %(count)d sessions were ended.",
    ),
)
TAKE_OVER = Verb(
    "take-over",
    "take_over_botsession",
    gettext_lazy("Take over"),
    gettext_lazy(
        "The bot is paused in this session, and you answer in its place. What is said there is "
        "recorded and kept for you to decide about when you hand back. A flow that waits there "
        "goes on afterwards, with the time it had."
    ),
    take_over,
    is_single=True,
)
HAND_BACK = Verb(
    "hand-back",
    "take_over_botsession",
    gettext_lazy("Hand back"),
    gettext_lazy("The bot talks again in this session."),
    hand_back,
    is_single=True,
    form=HandBackForm,
)
