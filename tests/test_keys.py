"""Session keys: identity, text, JSON, strategies."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from botsessions import SessionKey, Update
from botsessions.keys import STRATEGIES, mailbox_of
from botsessions.updates import Chat, User
from tests.kit import keyless, message

part = st.text(max_size=12)


@given(st.tuples(part, part, part, part, part), st.tuples(part, part, part, part, part))
def test_different_keys_never_read_the_same(one: tuple[str, ...], two: tuple[str, ...]) -> None:
    first, second = SessionKey(*one), SessionKey(*two)
    assert (str(first) == str(second)) is (first == second)


@given(st.tuples(part, part, part, part, part))
def test_a_key_goes_to_json_and_back(parts: tuple[str, ...]) -> None:
    """S1."""
    key = SessionKey(*parts)
    assert msgspec.json.decode(msgspec.json.encode(key), type=SessionKey) == key


@pytest.mark.parametrize(
    ("strategy", "private", "group", "channel"),
    [
        ("chat_user", ("ann", "ann", ""), ("g", "ann", ""), ("c", "", "")),
        ("chat", ("ann", "", ""), ("g", "", ""), ("c", "", "")),
        ("user", ("", "ann", ""), ("", "ann", ""), None),
        ("auto", ("ann", "", ""), ("g", "ann", ""), ("c", "", "")),
        ("thread", ("ann", "", ""), ("g", "", ""), ("c", "", "")),
    ],
)
def test_strategies(
    strategy: str,
    private: tuple[str, ...],
    group: tuple[str, ...],
    channel: tuple[str, ...] | None,
) -> None:
    """S2 to S5."""
    key_of = STRATEGIES[strategy]
    assert key_of(message(user="ann")) == SessionKey("demo", *private)
    assert key_of(message(user="ann", chat="g")) == SessionKey("demo", *group)
    expected = None if channel is None else SessionKey("demo", *channel)
    assert key_of(message(user="", chat="c", type="channel_post")) == expected
    if strategy != "user":
        assert key_of(keyless()) is None


def test_business_and_guest_chats_are_conversations_of_their_own() -> None:
    chat, user = Chat("5"), User("7")
    own = Update("demo", "1", "message", chat=chat, user=user)
    business = Update("demo", "2", "business_message", chat=chat, user=user, business="b")
    guest = Update("demo", "3", "guest_message", chat=chat, user=user, guest=True)
    keys = {STRATEGIES["chat_user"](each) for each in (own, business, guest)}
    assert len(keys) == 3


def test_qualified_sessions_share_a_mailbox() -> None:
    update = message()
    key = STRATEGIES["chat_user"](update)
    assert key is not None
    assert mailbox_of(update, key) == mailbox_of(update, key.qualified("order")) == "demo:ann:ann"


def test_an_update_without_a_key_has_a_mailbox_to_itself() -> None:
    assert mailbox_of(keyless(), None) != mailbox_of(keyless(), None)
