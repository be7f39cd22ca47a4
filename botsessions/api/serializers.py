"""What rows look like as JSON, and what is read from a request."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import extend_schema_field
from rest_framework import ISO_8601, serializers

from botsessions.api.contents import readable_data
from botsessions.flows.takeover import NAME as TAKEN_OVER
from botsessions.models import BotSession, BotUpdate, Erasure, MessageDeletion, TrackedMessage
from botsessions.operations.selection import Selection

#: The longest message that is worth to be given to a platform, in characters.
LONGEST = 10_000
#: The most sessions that a deletion names one by one.
MOST_SESSIONS = 1000


class Moment(serializers.DateTimeField):
    """A moment by ISO 8601, whatever form the project has for its own."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(format=ISO_8601, **kwargs)


@extend_schema_field({})
class Json(serializers.JSONField):
    """Whatever JSON has, null too."""


# A row, to be read. (A docstring would be every serializer's description in the schema.)
class Row(serializers.ModelSerializer):
    serializer_field_mapping = serializers.ModelSerializer.serializer_field_mapping | {
        models.DateTimeField: Moment,
        models.JSONField: Json,
    }


# What a request says; a field that there is not is refused rather than left out.
class Refusing(serializers.Serializer):
    def to_internal_value(self, data: Any) -> Any:
        unknown = sorted(set(data) - set(self.fields)) if isinstance(data, dict) else []
        if unknown:
            raise serializers.ValidationError(
                {name: _("There is no such field.") for name in unknown}, "unknown"
            )
        return super().to_internal_value(data)


# Bots


class BotSerializer(serializers.Serializer):
    alias = serializers.CharField()
    platform = serializers.CharField(
        allow_null=True, help_text=_("None where the bot's settings are wrong.")
    )
    key = serializers.CharField(
        allow_null=True, help_text=_("What a session belongs to; a function's dotted path.")
    )
    store = serializers.CharField(
        allow_null=True, help_text=_("Where session data is kept; none: it keeps no sessions.")
    )


# Sessions


class SessionRowSerializer(Row):
    """A session in a list: without what may be long."""

    flow = serializers.SerializerMethodField(
        help_text=_("The waiter or conversation that waits there.")
    )
    operator = serializers.SerializerMethodField(help_text=_("Who has taken over from the bot."))
    is_quarantined = serializers.BooleanField(
        read_only=True, help_text=_("Is there data that did not fit the session's type?")
    )

    class Meta:
        model = BotSession
        fields: tuple[str, ...] = (
            "id", "bot", "chat", "user", "thread", "qualifier", "version", "is_open", "flow",
            "operator", "is_quarantined", "expires_at", "created_at", "updated_at",
        )  # fmt: skip
        read_only_fields = fields

    def get_flow(self, row: Any) -> str | None:
        name: str | None = row.flow_before if row.flow_name == TAKEN_OVER else row.flow_name
        return name

    def get_operator(self, row: Any) -> str | None:
        operator: str | None = row.flow_operator
        return operator


class SessionSerializer(SessionRowSerializer):
    data = serializers.SerializerMethodField(help_text=_("As JSON has it, whatever store has it."))
    deadline = Moment(source="due_at", read_only=True, allow_null=True, help_text=_("The flow's."))

    class Meta(SessionRowSerializer.Meta):
        fields = (
            *SessionRowSerializer.Meta.fields, "data", "quarantined", "deadline", "last_flow"
        )  # fmt: skip
        read_only_fields = fields

    @extend_schema_field({})
    def get_data(self, row: BotSession) -> Any:
        return readable_data(row)


class DataSerializer(Refusing):
    """What takes the place of a session's data, as a whole."""

    data = Json(allow_null=True)


class ForgottenSerializer(serializers.Serializer):
    forgotten = serializers.IntegerField(help_text=_("How many messages left the slice."))


class EndedSerializer(serializers.Serializer):
    ended = serializers.BooleanField(help_text=_("Was there a flow?"))


class PausedSerializer(serializers.Serializer):
    paused = serializers.BooleanField(help_text=_("False where an operator talks there already."))


class ResumeSerializer(Refusing):
    handles = serializers.BooleanField(
        help_text=_("Give what was said meanwhile to the handlers, or let it be done unhandled?")
    )


class ResumedSerializer(serializers.Serializer):
    released = serializers.IntegerField(help_text=_("How many updates had come meanwhile."))


# Messages


class MessageSerializer(Row):
    class Meta:
        model = TrackedMessage
        fields = (
            "id", "chat", "message_id", "direction", "kind", "is_service", "user", "name",
            "reply_to", "business", "text", "sent_at", "edited_at", "deleted_at", "outcome",
            "update_id",
        )  # fmt: skip
        read_only_fields = fields


class SendSerializer(Refusing):
    text = serializers.CharField(max_length=LONGEST, trim_whitespace=False)


class SentSerializer(serializers.Serializer):
    messages = MessageSerializer(many=True, help_text=_("What was sent, as it is recorded."))


# Updates


class UpdateRowSerializer(Row):
    class Meta:
        model = BotUpdate
        fields: tuple[str, ...] = (
            "id", "bot", "update_id", "type", "mailbox", "status", "attempts", "due_at",
            "received_at", "finished_at",
        )  # fmt: skip
        read_only_fields = fields


class UpdateSerializer(UpdateRowSerializer):
    class Meta(UpdateRowSerializer.Meta):
        fields = (*UpdateRowSerializer.Meta.fields, "payload", "journal", "error")
        read_only_fields = fields


class SettledSerializer(serializers.Serializer):
    settled = serializers.BooleanField(help_text=_("False where it was neither parked nor held."))


# Deletions and erasures


class DeletionSerializer(Row):
    done = serializers.IntegerField(help_text=_("How many have come to an outcome."))

    class Meta:
        model = MessageDeletion
        fields = (
            "id", "bot", "through", "status", "selection", "total", "done", "deleted", "gone",
            "too_old", "forbidden", "failed", "requested_by", "created_at", "finished_at",
        )  # fmt: skip
        read_only_fields = fields


class SelectionSerializer(Refusing):
    """Whose messages: at least one part beside the bot, or `all`."""

    bot = serializers.CharField(max_length=64)
    chat = serializers.CharField(max_length=160, required=False, allow_blank=True)
    user = serializers.CharField(max_length=64, required=False, allow_blank=True)
    thread = serializers.CharField(max_length=64, required=False, allow_blank=True)
    qualifier = serializers.CharField(max_length=64, required=False, allow_blank=True)
    is_open = serializers.BooleanField(required=False)
    sessions = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=2**63 - 1),
        required=False,
        allow_empty=False,
        max_length=MOST_SESSIONS,
    )
    direction = serializers.ChoiceField(TrackedMessage.Direction.choices, required=False)
    before = Moment(required=False, help_text=_("Only messages that were sent before."))
    all = serializers.BooleanField(default=False, help_text=_("The messages of all its sessions."))
    through = serializers.CharField(
        max_length=64, required=False, help_text=_("The bot that deletes, unless the same.")
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        parts = {name for name in attrs if name not in ("bot", "all", "through")}
        if bool(parts) == attrs["all"]:
            raise serializers.ValidationError(
                _("Say which messages are meant: by a part of the session, or by all."),
                "unnarrowed",
            )
        return attrs

    def selection(self) -> Selection:
        """Return what was said."""
        parts = {k: v for k, v in self.validated_data.items() if k not in ("all", "through")}
        return Selection(**parts)


class CancelledSerializer(serializers.Serializer):
    cancelled = serializers.BooleanField(help_text=_("False where it was over."))


class ErasureSerializer(Row):
    class Meta:
        model = Erasure
        fields = (
            "id", "bot", "kind", "subject", "counts", "deletion", "requested_by", "created_at",
            "finished_at",
        )  # fmt: skip
        read_only_fields = fields
        extra_kwargs = {"counts": {"help_text": _("Rows by table.")}}


class ExportSerializer(Refusing):
    """Whom: a user or a chat, by the platform's id."""

    user = serializers.CharField(max_length=64, required=False)
    chat = serializers.CharField(max_length=160, required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("user" in attrs) == ("chat" in attrs):
            raise serializers.ValidationError(_("Name either a user or a chat."), "unnarrowed")
        return attrs


class EraseSerializer(ExportSerializer):
    delete_messages = serializers.BooleanField(
        default=False, help_text=_("Ask the platform to delete the messages, too.")
    )
