"""The kinds of message that Telegram has, as its documentation lists the fields of a Message.

https://core.telegram.org/bots/api#message (Bot API 10.3). A field that is not here, because
Telegram added it since, makes no kind: the message is of the kind `other`, and goes its way.
"""

from __future__ import annotations

from typing import Any, Final

from botsessions.updates import MessageKind

#: What a message is by the field it has; the first of them counts. Telegram sets some fields in
#: pairs for old clients: animation with document, live_photo with photo, venue with location.
CONTENT_KINDS: Final = (
    "paid_media",
    "live_photo",
    "animation",
    "video",
    "video_note",
    "audio",
    "voice",
    "photo",
    "sticker",
    "story",
    "document",
    "game",
    "checklist",
    "contact",
    "dice",
    "poll",
    "venue",
    "location",
    "invoice",
    "giveaway",
    "giveaway_winners",
    "passport_data",
    "rich_message",
    "text",
)

#: What happened in a chat, told by a message that nobody wrote.
SERVICE_KINDS: Final = (
    "new_chat_members",
    "left_chat_member",
    "chat_owner_left",
    "chat_owner_changed",
    "new_chat_title",
    "new_chat_photo",
    "delete_chat_photo",
    "group_chat_created",
    "supergroup_chat_created",
    "channel_chat_created",
    "message_auto_delete_timer_changed",
    "migrate_to_chat_id",
    "migrate_from_chat_id",
    "pinned_message",
    "successful_payment",
    "refunded_payment",
    "users_shared",
    "user_shared",
    "chat_shared",
    "gift",
    "unique_gift",
    "gift_upgrade_sent",
    "connected_website",
    "write_access_allowed",
    "proximity_alert_triggered",
    "boost_added",
    "chat_background_set",
    "checklist_tasks_done",
    "checklist_tasks_added",
    "direct_message_price_changed",
    "paid_message_price_changed",
    "forum_topic_created",
    "forum_topic_edited",
    "forum_topic_closed",
    "forum_topic_reopened",
    "general_forum_topic_hidden",
    "general_forum_topic_unhidden",
    "giveaway_created",
    "giveaway_completed",
    "managed_bot_created",
    "poll_option_added",
    "poll_option_deleted",
    "suggested_post_approved",
    "suggested_post_approval_failed",
    "suggested_post_declined",
    "suggested_post_paid",
    "suggested_post_refunded",
    "video_chat_scheduled",
    "video_chat_started",
    "video_chat_ended",
    "video_chat_participants_invited",
    "voice_chat_scheduled",
    "voice_chat_started",
    "voice_chat_ended",
    "voice_chat_participants_invited",
    "web_app_data",
    "community_chat_added",
    "community_chat_removed",
    "community_chat_joined",
)

_Kind = tuple[int, str, bool]
_OTHER: Final[_Kind] = (1_000, MessageKind.OTHER.value, False)
_KINDS: Final[dict[str, _Kind]] = {
    kind: (rank, kind, rank >= len(CONTENT_KINDS))
    for rank, kind in enumerate((*CONTENT_KINDS, *SERVICE_KINDS))
}


def kind_of(message: dict[str, Any]) -> tuple[str, bool]:
    """Return a message's kind and whether it is a service message."""
    found = _OTHER
    for field in message:
        kind = _KINDS.get(field)
        # What is true by being there may be an empty object, but is never false or null.
        if kind is not None and kind < found and message[field] not in (None, False):
            found = kind
    return found[1], found[2]
