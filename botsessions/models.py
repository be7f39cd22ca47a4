"""What is stored: sessions, their messages, the updates that made them, and who is working on which
mailbox; then what operations need: deletions, rates, heartbeats and erasures.

Platform ids are strings, and an absent one is `""`, never NULL. Every queue that is searched has a
partial index.
"""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from botsessions.updates import Direction


class BotSession(models.Model):
    """One session: its key, its data, and the version that every save checks.

    `data` is NULL while nothing was stored, which is not the same as an empty value. While it is
    open, what is said in its place is tracked; `matcher` names the function that chooses, `""` for
    everything. `quarantined` is the last stored value that did not fit the session's type.

    `flow` is the waiter or conversation that receives what is said in its place, and `due_at` when
    somebody is to look whether its deadline has passed: the deadline, or a little later while
    somebody does. `last_flow` is how the flow before it ended.
    """

    bot = models.CharField(_("bot"), max_length=64)
    chat = models.CharField(_("chat"), max_length=160, blank=True, default="")
    user = models.CharField(_("user"), max_length=64, blank=True, default="")
    thread = models.CharField(_("thread"), max_length=64, blank=True, default="")
    qualifier = models.CharField(_("qualifier"), max_length=64, blank=True, default="")
    data = models.JSONField(_("data"), null=True, blank=True)
    version = models.PositiveIntegerField(_("version"), default=0)
    is_open = models.BooleanField(_("open"), default=False)
    # A process of the version before, still running while this is deployed, names no matcher.
    matcher = models.CharField(_("matcher"), max_length=128, blank=True, default="", db_default="")
    expires_at = models.DateTimeField(_("expires at"), null=True, blank=True)
    quarantined = models.JSONField(_("quarantined data"), null=True, blank=True)
    flow = models.JSONField(_("flow"), null=True, blank=True)
    due_at = models.DateTimeField(_("due at"), null=True, blank=True)
    last_flow = models.JSONField(_("last flow"), null=True, blank=True)
    created_at = models.DateTimeField(_("created at"))
    updated_at = models.DateTimeField(_("updated at"))

    class Meta:
        verbose_name = _("session")
        verbose_name_plural = _("sessions")
        permissions = (
            ("clear_botsession", _("Can delete the messages of a session")),
            ("forget_botsession", _("Can forget the messages of a session")),
            ("close_botsession", _("Can close a session")),
            ("reset_botsession", _("Can reset the data of a session")),
            ("end_flow_botsession", _("Can end the flow of a session")),
            ("send_botsession", _("Can send messages as the bot")),
            ("take_over_botsession", _("Can take over a session from the bot")),
            ("export_botsession", _("Can export what is stored of somebody")),
            ("erase_botsession", _("Can erase what is stored of somebody")),
        )
        constraints = (
            # The bot comes last: with it first, the planner of a fresh table reads all of a bot's
            # rows.
            models.UniqueConstraint(
                fields=["chat", "user", "thread", "qualifier", "bot"],
                name="botsessions_session_key",
            ),
        )
        indexes = (
            models.Index(fields=["bot"], condition=Q(is_open=True), name="botsessions_open"),
            models.Index(
                fields=["expires_at"],
                condition=Q(expires_at__isnull=False),
                name="botsessions_expiring",
            ),
            models.Index(
                fields=["due_at"], condition=Q(due_at__isnull=False), name="botsessions_due"
            ),
            # What operators look for. No save changes a column of these but the rare one that puts
            # data aside, so that a row stays in its page; and the conditions, which no statement of
            # a mailbox has, keep a planner from taking them for the key.
            models.Index(fields=["bot", "id"], condition=Q(id__gt=0), name="botsessions_of_bot"),
            models.Index(fields=["user"], condition=Q(user__gt=""), name="botsessions_of_user"),
            models.Index(
                fields=["id"], condition=Q(quarantined__isnull=False), name="botsessions_misfits"
            ),
        )

    def __str__(self) -> str:
        parts = (self.bot, self.chat, self.user, self.thread, self.qualifier)
        return ":".join(parts).rstrip(":")


class TrackedMessage(models.Model):
    """One message of a session's slice of the conversation.

    A message that the bot sent carries the update whose handler sent it, and its place among that
    handler's sends.

    With `deleted_at` it is in the slice no more: it left it then, to be deleted on the platform,
    and without its text. `outcome` is what became of it there, a value of `Deletion`; `""` where a
    `MessageDeletion` asked for it, which tells.
    """

    class Direction(models.TextChoices):
        INCOMING = Direction.INCOMING.value, _("incoming")
        OUTGOING = Direction.OUTGOING.value, _("outgoing")

    session = models.ForeignKey(
        BotSession,
        on_delete=models.CASCADE,
        related_name="messages",
        verbose_name=_("session"),
        db_index=False,  # the constraint below begins with it
    )
    chat = models.CharField(_("chat"), max_length=64)
    #: NULL where the platform gives none that lasts; the constraint below is for the others.
    message_id = models.CharField(_("message id"), max_length=64, blank=True, null=True)  # noqa: DJ001
    direction = models.CharField(_("direction"), max_length=8, choices=Direction.choices)
    kind = models.CharField(_("kind"), max_length=64, default="text")
    is_service = models.BooleanField(_("service message"), default=False)
    user = models.CharField(_("user"), max_length=64, blank=True, default="")
    business = models.CharField(_("business connection"), max_length=64, blank=True, default="")
    # A process of the version before, still running while this is deployed, names neither of the
    # two, nor the outcome below.
    #: What whoever said it was called then.
    name = models.CharField(_("name"), max_length=128, blank=True, default="", db_default="")
    #: The message that it answers.
    reply_to = models.CharField(_("reply to"), max_length=64, blank=True, default="", db_default="")
    text = models.TextField(_("text"), blank=True, default="")
    sent_at = models.DateTimeField(_("sent at"))
    edited_at = models.DateTimeField(_("edited at"), null=True, blank=True)
    deleted_at = models.DateTimeField(_("deleted at"), null=True, blank=True)
    outcome = models.CharField(_("outcome"), max_length=16, blank=True, default="", db_default="")
    update_id = models.CharField(_("update id"), max_length=128, blank=True, default="")
    ordinal = models.PositiveIntegerField(_("ordinal"), default=0)

    class Meta:
        verbose_name = _("tracked message")
        verbose_name_plural = _("tracked messages")
        constraints = (
            models.UniqueConstraint(
                fields=["session", "chat", "message_id"], name="botsessions_message_once"
            ),
        )
        indexes = (
            # A session without such rows is counted by the constraint's index alone. What is said
            # is never in this one.
            models.Index(
                fields=["session"],
                condition=Q(deleted_at__isnull=False),
                name="botsessions_message_deleted",
            ),
            # A slice is read in this order, of which its newest messages may be a small part.
            models.Index(fields=["session", "id"], name="botsessions_slice"),
        )

    def __str__(self) -> str:
        return f"{self.chat}/{self.message_id or ''}"


class BotUpdate(models.Model):
    """One update of a bot, kept so that its duplicates are known.

    `payload` (the whole `Update`) and `journal` (what its handler sent so far) are kept while it is
    pending, parked or held. The order of ids is the order in which the updates of one mailbox were
    acknowledged.
    """

    class Status(models.TextChoices):
        PENDING = "pending", _("pending")
        DONE = "done", _("done")
        PARKED = "parked", _("parked")
        HELD = "held", _("held for an operator")

    bot = models.CharField(_("bot"), max_length=64)
    update_id = models.CharField(_("update id"), max_length=128)
    type = models.CharField(_("type"), max_length=64)
    mailbox = models.CharField(_("mailbox"), max_length=512)
    status = models.CharField(_("status"), max_length=8, choices=Status.choices)
    attempts = models.PositiveSmallIntegerField(_("attempts"), default=0)
    payload = models.JSONField(_("payload"), null=True, blank=True)
    journal = models.JSONField(_("journal"), null=True, blank=True)
    error = models.TextField(_("error"), blank=True, default="")
    due_at = models.DateTimeField(_("due at"), null=True, blank=True)
    received_at = models.DateTimeField(_("received at"))
    finished_at = models.DateTimeField(_("finished at"), null=True, blank=True)

    class Meta:
        verbose_name = _("update")
        verbose_name_plural = _("updates")
        permissions = (
            ("replay_botupdate", _("Can replay an update")),
            ("drop_botupdate", _("Can drop an update")),
        )
        constraints = (
            # The bot comes last, as in BotSession.
            models.UniqueConstraint(fields=["update_id", "bot"], name="botsessions_update_once"),
        )
        indexes = (
            # What failed is tried again in its place, before what was stored earlier.
            models.Index(
                fields=["mailbox", "-attempts", "id"],
                condition=Q(status="pending"),
                name="botsessions_pending",
            ),
            models.Index(
                fields=["bot", "id"], condition=Q(status="parked"), name="botsessions_parked"
            ),
            models.Index(
                fields=["mailbox", "id"], condition=Q(status="held"), name="botsessions_held"
            ),
        )

    def __str__(self) -> str:
        return f"{self.bot}/{self.update_id}"


class MailboxLease(models.Model):
    """A mailbox that some process is working on, until `expires_at` by the database's clock.

    `token` is new each time the mailbox is taken and begins with the name of the process. A mailbox
    that nobody works on has no row.
    """

    key = models.CharField(_("mailbox"), max_length=512, primary_key=True)
    token = models.CharField(_("token"), max_length=128)
    acquired_at = models.DateTimeField(_("acquired at"))
    expires_at = models.DateTimeField(_("expires at"))

    class Meta:
        verbose_name = _("mailbox lease")
        verbose_name_plural = _("mailbox leases")

    def __str__(self) -> str:
        return self.key


class MessageDeletion(models.Model):
    """A bulk deletion: which messages, in whose name, and how far it is.

    What is to be deleted is taken out of its slices when it is begun; of a set of sessions
    (`selection`) it is gathered afterwards, up to the message that was the last then. `cursor` is
    the last session that was looked at, `busy` those that somebody worked on.
    """

    class Status(models.TextChoices):
        GATHERING = "gathering", _("gathering")
        RUNNING = "running", _("running")
        DONE = "done", _("done")
        CANCELLED = "cancelled", _("cancelled")

    bot = models.CharField(_("bot"), max_length=64)
    #: The bot that deletes.
    through = models.CharField(_("through"), max_length=64)
    status = models.CharField(_("status"), max_length=10, choices=Status.choices)
    selection = models.JSONField(_("selection"), null=True, blank=True)
    cursor = models.BigIntegerField(_("cursor"), default=0)
    last_message = models.BigIntegerField(_("last message"), default=0)
    busy = models.JSONField(_("busy sessions"), default=list, blank=True)
    due_at = models.DateTimeField(_("due at"), null=True, blank=True)
    total = models.PositiveIntegerField(_("total"), default=0)
    deleted = models.PositiveIntegerField(_("deleted"), default=0)
    gone = models.PositiveIntegerField(_("gone"), default=0)
    too_old = models.PositiveIntegerField(_("too old"), default=0)
    forbidden = models.PositiveIntegerField(_("forbidden"), default=0)
    failed = models.PositiveIntegerField(_("failed"), default=0)
    #: Is it to leave nothing of which messages they were, once it is over?
    forgets = models.BooleanField(_("forgets its messages"), default=False)
    requested_by = models.CharField(_("requested by"), max_length=150, blank=True, default="")
    created_at = models.DateTimeField(_("created at"))
    finished_at = models.DateTimeField(_("finished at"), null=True, blank=True)

    class Meta:
        verbose_name = _("message deletion")
        verbose_name_plural = _("message deletions")
        permissions = (("cancel_messagedeletion", _("Can cancel a message deletion")),)
        indexes = (
            models.Index(
                fields=["due_at"],
                condition=Q(due_at__isnull=False),
                name="botsessions_deletion_due",
            ),
        )

    def __str__(self) -> str:
        return f"{self.bot}/{self.pk}"

    @property
    def outcomes(self) -> dict[str, int]:
        """How many messages came to each outcome so far, by the values of `Deletion`."""
        return {name: getattr(self, name) for name in OUTCOMES}

    @property
    def done(self) -> int:
        """How many messages have come to an outcome."""
        return sum(self.outcomes.values())


#: The outcomes that a deletion counts.
OUTCOMES = ("deleted", "gone", "too_old", "forbidden", "failed")


class DeletionChunk(models.Model):
    """Messages of one chat that one call can delete, and what became of each.

    `messages` holds pairs of a message's id and when it was sent (seconds of the epoch, or null),
    `outcomes` a value of `Deletion` by id. `due_at` is when it is to be asked for, or is thought to
    be abandoned by the process that asks (`token`); NULL when nothing is left to ask for.
    """

    deletion = models.ForeignKey(
        MessageDeletion,
        on_delete=models.CASCADE,
        related_name="chunks",
        verbose_name=_("deletion"),
        db_index=False,  # the index below begins with it
    )
    chat = models.CharField(_("chat"), max_length=64)
    business = models.CharField(_("business connection"), max_length=64, blank=True, default="")
    messages = models.JSONField(_("messages"))
    outcomes = models.JSONField(_("outcomes"), default=dict, blank=True)
    attempts = models.PositiveSmallIntegerField(_("attempts"), default=0)
    #: Since when the platform has said "later" and nothing else.
    limited_since = models.DateTimeField(_("limited since"), null=True, blank=True)
    token = models.CharField(_("token"), max_length=64, blank=True, default="")
    error = models.TextField(_("error"), blank=True, default="")
    due_at = models.DateTimeField(_("due at"), null=True, blank=True)

    class Meta:
        verbose_name = _("deletion chunk")
        verbose_name_plural = _("deletion chunks")
        indexes = (
            models.Index(fields=["deletion", "chat"], name="botsessions_chunk_chat"),
            models.Index(
                fields=["due_at", "id"],
                condition=Q(due_at__isnull=False),
                name="botsessions_chunk_due",
            ),
        )

    def __str__(self) -> str:
        return f"{self.deletion_id}/{self.pk}"


class RateWindow(models.Model):
    """When a bot has last spoken, in a chat or in all: what its rate is held against.

    `times` are the last sends (seconds of the epoch by the database's clock), as many as the rate
    counts. Nothing is sent there before `paused_until`.
    """

    key = models.CharField(_("key"), max_length=255, primary_key=True)
    times = models.JSONField(_("times"), default=list)
    paused_until = models.FloatField(_("paused until"), default=0)
    updated_at = models.DateTimeField(_("updated at"))

    class Meta:
        verbose_name = _("rate window")
        verbose_name_plural = _("rate windows")
        indexes = (models.Index(fields=["updated_at"], name="botsessions_rate_idle"),)

    def __str__(self) -> str:
        return self.key


class Heartbeat(models.Model):
    """When something that is to be done regularly was last done."""

    name = models.CharField(_("name"), max_length=64, primary_key=True)
    at = models.DateTimeField(_("at"))

    class Meta:
        verbose_name = _("heartbeat")
        verbose_name_plural = _("heartbeats")

    def __str__(self) -> str:
        return self.name


class Erasure(models.Model):
    """The receipt of what was erased of a person or a chat.

    While it is not finished, `selection` says whom, and how far it is (`operations.erasing`); then
    only `subject` is left, which tells somebody who knows the id and the project's SECRET_KEY that
    it is theirs. `counts` are rows by table. Whoever works on it holds it with `token`.
    """

    class Kind(models.TextChoices):
        USER = "user", _("user")
        CHAT = "chat", _("chat")

    bot = models.CharField(_("bot"), max_length=64)
    kind = models.CharField(_("kind"), max_length=4, choices=Kind.choices)
    subject = models.CharField(_("subject"), max_length=64)
    selection = models.JSONField(_("selection"), null=True, blank=True)
    deletion = models.ForeignKey(
        MessageDeletion,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="erasures",
        verbose_name=_("deletion"),
    )
    counts = models.JSONField(_("counts"), default=dict, blank=True)
    token = models.CharField(_("token"), max_length=64, blank=True, default="")
    due_at = models.DateTimeField(_("due at"), null=True, blank=True)
    requested_by = models.CharField(_("requested by"), max_length=150, blank=True, default="")
    created_at = models.DateTimeField(_("created at"))
    finished_at = models.DateTimeField(_("finished at"), null=True, blank=True)

    class Meta:
        verbose_name = _("erasure")
        verbose_name_plural = _("erasures")
        indexes = (
            models.Index(fields=["subject"], name="botsessions_erasure_subject"),
            models.Index(
                fields=["due_at"],
                condition=Q(due_at__isnull=False),
                name="botsessions_erasure_due",
            ),
        )

    def __str__(self) -> str:
        return f"{self.bot}/{self.pk}"
