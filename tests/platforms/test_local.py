"""`LocalPlatform` and the network behind it."""

import json
import multiprocessing
import sqlite3
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from botsessions.exceptions import InvalidRequest, MalformedBody, NotFound, PlatformUnavailable
from botsessions.platforms.base import Deletion, Platform
from botsessions.platforms.local import LocalPlatform
from botsessions.platforms.local_chat import MAX_TEXT, LocalChat
from botsessions.testing import PlatformContract
from botsessions.updates import Chat, User

ANN, BEN = User("ann", "Ann"), User("ben", "Ben")
PRIVATE, GROUP = Chat("ann", "private", "Ann"), Chat("group", "group", "Everybody")


def local(**options: Any) -> LocalPlatform:
    return LocalPlatform("demo", {"secret": "sésame"} | options)


def texts(network: LocalChat, chat: Chat = GROUP) -> list[str]:
    return [message["text"] for message in network.history(chat.id)["messages"]]


class TestLocalPlatformContract(PlatformContract):
    def platform(self) -> LocalPlatform:
        return LocalPlatform("demo", {"secret": "sesame"})

    def headers(self, platform: Platform, body: bytes) -> dict[bytes, bytes]:
        return {b"x-local-secret": b"sesame"}

    def bodies(self) -> Iterable[bytes]:
        platform = self.platform()
        network = platform.network
        said = network.say(GROUP, ANN, "/start now", reply_to="7")
        asked = network.post(GROUP.id, "Which?", buttons={"Tea": "tea"})
        for updates in (
            [said],
            [said, network.say(PRIVATE, ANN, "/")],
            [network.amend(GROUP.id, ANN, said["message"]["message_id"], "שלום")],
            [network.press(GROUP.id, BEN, asked["message_id"], "tea")],
        ):
            yield platform.request(*updates)[1]
        yield json.dumps(said).encode()

    def unknown(self) -> bytes:
        return b'{"updates": [{"update_id": 1, "mood": {"chat": {"id": "group"}}}]}'


# Options


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "secret"),
        ({"secret": ""}, "secret"),
        ({"secret": b"bytes"}, "secret"),
        ({"secret": "s", "path": ""}, "path"),
        ({"secret": "s", "path": 7}, "path"),
        ({"secret": "s", "pth": "chat.sqlite3"}, "pth"),
    ],
)
def test_wrong_option_is_named_with_its_bot(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=rf'"demo".*"{named}"'):
        LocalPlatform("demo", options)


def test_request_carries_its_proof_even_beyond_ascii() -> None:
    platform = local()
    headers, body = platform.request(platform.network.say(GROUP, ANN, "Hello"))
    platform.authenticate(headers, body)


# Receiving


def test_request_of_many_updates_keeps_each_with_its_own_user_and_chat() -> None:
    """S85."""
    platform = local()
    network = platform.network
    _, body = platform.request(
        network.say(GROUP, ANN, "one"),
        {"update_id": 5, "mood": "sunny"},
        network.say(GROUP, BEN, "two"),
        network.say(PRIVATE, ANN, "three"),
    )
    updates = platform.parse(body)
    found = [(each.text, each.chat, each.user) for each in updates]
    assert found == [("one", GROUP, ANN), ("two", GROUP, BEN), ("three", PRIVATE, ANN)]
    assert len({each.id for each in updates}) == 3


def test_message_is_read_with_all_its_parts() -> None:
    payload = {
        "update_id": 7,
        "message": {
            "message_id": 8,
            "chat": {"id": "group", "type": "group", "title": "Everybody"},
            "from": {"id": "ann", "name": "Ann"},
            "date": 1_700_000_000,
            "edited": 1_700_000_060,
            "kind": "photo",
            "text": "Look",
            "thread": "42",
            "reply_to": "6",
        },
    }
    (update,) = local().parse(json.dumps(payload).encode())
    assert (update.bot, update.id, update.type) == ("demo", "7", "message")
    assert (update.chat, update.user, update.thread, update.text) == (GROUP, ANN, "42", "Look")
    assert update.payload == payload
    assert update.message is not None
    assert (update.message.id, update.message.kind, update.message.reply_to) == ("8", "photo", "6")
    assert update.message.date == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert update.message.edited == datetime(2023, 11, 14, 22, 14, 20, tzinfo=UTC)


def test_pressed_button_is_an_action_on_the_message_of_the_bot() -> None:
    platform = local()
    asked = platform.network.post(GROUP.id, "Which?", buttons=[("Tea", "tea"), ("Milk", "milk")])
    _, body = platform.request(platform.network.press(GROUP.id, BEN, asked["message_id"], "milk"))
    (update,) = platform.parse(body)
    assert (update.type, update.action, update.text) == ("callback_query", "milk", "Which?")
    assert update.user == BEN
    assert update.message is not None
    assert update.message.text == "Which?"
    assert update.message.user == User("demo", "demo", is_bot=True)


def test_changed_message_is_an_edited_message() -> None:
    platform = local()
    said = platform.network.say(GROUP, ANN, "Helo")["message"]
    changed = platform.network.amend(GROUP.id, ANN, said["message_id"], "Hello")
    (update,) = platform.parse(platform.request(changed)[1])
    assert (update.type, update.text) == ("edited_message", "Hello")
    assert update.message is not None
    assert update.message.id == str(said["message_id"])
    assert update.message.edited == datetime.fromtimestamp(changed["edited_message"]["edited"], UTC)


def test_group_that_moves_names_where_to_and_where_from() -> None:
    """P17."""
    platform = local()
    old, new = {"id": "group", "type": "group"}, {"id": "big", "type": "supergroup"}
    left = {"message_id": 1, "chat": old, "migrated_to": "big"}
    came = {"message_id": 1, "chat": new, "migrated_from": "group", "kind": "migration"}
    _, body = platform.request({"update_id": 1, "message": left}, {"update_id": 2, "message": came})
    first, second = (update.message for update in platform.parse(body))
    assert first is not None
    assert second is not None
    assert (first.migrated_to, first.migrated_from) == ("big", "")
    assert (second.migrated_to, second.migrated_from) == ("", "group")
    assert (first.kind, first.is_service) == ("other", True)
    assert (second.kind, second.is_service) == ("migration", True)


@pytest.mark.parametrize(
    "body",
    [
        {"updates": {}},
        {"updates": [7]},
        {"updates": [{"message": {}}]},
        {"update_id": "", "message": {"chat": {"id": 1}}},
        {"update_id": 1, "message": {"message_id": 1}},
        {"update_id": 1, "message": {"chat": {"id": "x" * 65}}},
        {"update_id": 1, "callback_query": []},
    ],
)
def test_what_is_no_request_is_malformed(body: Any) -> None:
    with pytest.raises(MalformedBody):
        local().parse(json.dumps(body).encode())


# Sending


async def test_bot_sends_edits_and_deletes() -> None:
    platform = local()
    network = platform.network
    said = network.say(GROUP, ANN, "Hello")["message"]
    sent = await platform.send(
        GROUP.id, "Tea?", buttons={"Yes": "y"}, reply_to=said["message_id"], parse_mode="HTML"
    )
    assert sent["buttons"] == [{"text": "Yes", "action": "y"}]
    assert sent["reply_to"] == str(said["message_id"])
    assert sent["chat"] == {"id": "group", "type": "group", "title": "Everybody"}
    edited = await platform.call("edit", chat=GROUP.id, message_id=sent["message_id"], text="Milk?")
    assert "buttons" not in edited
    assert await platform.call("typing", chat=GROUP.id)
    assert texts(network) == ["Hello", "Milk?"]
    assert await platform.call("delete", chat=GROUP.id, message_id=sent["message_id"])
    again = await platform.delete_messages(
        GROUP.id, [str(said["message_id"]), str(sent["message_id"]), "x", "9" * 30]
    )
    assert list(again.values()) == [Deletion.DELETED, *[Deletion.GONE] * 3]
    assert texts(network) == []


async def test_album_is_as_many_messages() -> None:
    platform = local()
    result = await platform.call("album", chat=GROUP.id, texts=["one", "two"])
    found = platform.messages(result)
    assert [(message.text, message.chat.id) for message in found] == [
        ("one", GROUP.id),
        ("two", GROUP.id),
    ]
    assert {message.album for message in found} == {found[0].id}
    assert texts(platform.network) == ["one", "two"]


async def test_album_goes_out_whole_or_not_at_all() -> None:
    platform = local()
    wrong: tuple[Any, ...] = ([], "text", None, 7, ["one", ""], ["one", 2])
    for album in wrong:
        with pytest.raises(InvalidRequest):
            await platform.call("album", chat=GROUP.id, texts=album)
    with pytest.raises(InvalidRequest):
        await platform.call("album", chat="", texts=["one"])
    assert texts(platform.network) == []


async def test_deletion_can_be_refused() -> None:
    platform = local()
    network = platform.network
    ids = [str(network.say(GROUP, ANN, text)["message"]["message_id"]) for text in "abcd"]
    network.refuse(ids[0], Deletion.TOO_OLD)
    network.refuse(int(ids[2]), Deletion.FORBIDDEN)
    assert list((await platform.delete_messages(GROUP.id, ids)).values()) == [
        Deletion.TOO_OLD,
        Deletion.DELETED,
        Deletion.FORBIDDEN,
        Deletion.DELETED,
    ]
    assert texts(network) == ["a", "c"]
    with pytest.raises(InvalidRequest, match="can't be deleted"):
        await platform.call("delete", chat=GROUP.id, message_id=ids[0])
    network.refuse(ids[0], None)
    assert await platform.delete_messages(GROUP.id, [ids[0]]) == {ids[0]: Deletion.DELETED}
    assert texts(network) == ["c"]


async def test_refused_calls_are_typed() -> None:
    platform = local()
    said = platform.network.say(GROUP, ANN, "Hello")["message"]
    for text in ("", " \n", "x" * (MAX_TEXT + 1), "a\0b", "\ud800", 7):
        with pytest.raises(InvalidRequest):
            await platform.send(GROUP.id, text)  # type: ignore[arg-type]
    for chat in ("", "x" * 65, "\0"):
        with pytest.raises(InvalidRequest):
            await platform.send(chat, "Hello")
    with pytest.raises(InvalidRequest):
        await platform.send(GROUP.id, "Hello", buttons=["Yes"])
    with pytest.raises(InvalidRequest, match="send"):
        await platform.call("send", chat=GROUP.id)
    with pytest.raises(InvalidRequest, match="own"):
        await platform.call("edit", chat=GROUP.id, message_id=said["message_id"], text="Mine")
    with pytest.raises(NotFound):
        await platform.call("edit", chat=PRIVATE.id, message_id=said["message_id"], text="Mine")
    with pytest.raises(NotFound):
        await platform.call("delete", chat=GROUP.id, message_id="1")
    with pytest.raises(NotFound):
        await platform.call("fly")
    assert texts(platform.network) == ["Hello"]


async def test_file_that_cannot_be_used_is_platform_unavailable(tmp_path: Path) -> None:
    (tmp_path / "no-database").write_text("This is a letter.\n" * 100)
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "no-database", tmp_path / "file" / "chat.sqlite3", tmp_path):
        with pytest.raises(PlatformUnavailable) as caught:
            await local(path=path).send(GROUP.id, "Hello")
        assert not caught.value.sent


# The network


def test_only_a_button_that_is_there_can_be_pressed() -> None:
    network = LocalChat("demo")
    asked = network.post(GROUP.id, "Which?", buttons={"Tea": "tea"})["message_id"]
    with pytest.raises(NotFound):
        network.press(GROUP.id, ANN, asked, "milk")
    with pytest.raises(NotFound):
        network.press(PRIVATE.id, ANN, asked, "tea")
    network.delete(GROUP.id, [asked])
    with pytest.raises(NotFound):
        network.press(GROUP.id, ANN, asked, "tea")


def test_people_change_only_what_they_said() -> None:
    network = LocalChat("demo")
    said = network.say(GROUP, ANN, "Hello")["message"]["message_id"]
    with pytest.raises(InvalidRequest):
        network.amend(GROUP.id, BEN, said, "Goodbye")
    with pytest.raises(InvalidRequest):
        network.amend(GROUP.id, ANN, network.post(GROUP.id, "Yes?")["message_id"], "No")


def test_same_nonce_is_the_same_message_and_update() -> None:
    network = LocalChat("demo")
    first = network.say(GROUP, ANN, "Hello", nonce="n1")
    assert network.say(GROUP, ANN, "Hello", nonce="n1") == first
    others = [
        network.say(GROUP, ANN, "Hello", nonce="n2"),
        network.say(GROUP, BEN, "Hello", nonce="n1"),
        network.say(PRIVATE, ANN, "Hello", nonce="n1"),
        network.say(GROUP, ANN, "Hello"),
        network.say(GROUP, ANN, "Hello"),
    ]
    assert len({update["update_id"] for update in [first, *others]}) == 6
    network.delete(GROUP.id, [first["message"]["message_id"]])
    assert network.say(GROUP, ANN, "Hello", nonce="n1") == first
    assert len(texts(network)) == 4


def test_history_tells_what_is_new_edited_delivered_and_deleted() -> None:
    network = LocalChat("demo")
    update = network.say(GROUP, ANN, "Hello")
    network.say(PRIVATE, ANN, "Elsewhere")
    start = network.history(GROUP.id)
    assert [message["delivered"] for message in start["messages"]] == [False]
    assert network.history(GROUP.id, start["revision"]) == start | {"messages": []}

    network.delivered(update)
    (delivered,) = network.history(GROUP.id, start["revision"])["messages"]
    assert "delivered" not in delivered

    before = network.history(GROUP.id)["revision"]
    answer = network.post(GROUP.id, "Hi")["message_id"]
    network.edit(GROUP.id, answer, "Good morning")
    network.delete(GROUP.id, [update["message"]["message_id"]])
    changes = network.history(GROUP.id, before)["messages"]
    assert [message.get("text") for message in changes] == ["Good morning", None]
    assert changes[1] == {"message_id": update["message"]["message_id"], "deleted": True}
    assert texts(network) == ["Good morning"]


def test_history_in_small_pieces_leaves_no_gap() -> None:
    network = LocalChat("demo")
    start = network.history(GROUP.id)["revision"]
    said = [network.say(GROUP, ANN, str(number)) for number in range(25)]
    network.delete(GROUP.id, [update["message"]["message_id"] for update in said[:7]])
    seen: dict[int, bool] = {}
    while True:
        changes = network.history(GROUP.id, start, limit=4)
        if not changes["messages"]:
            break
        start = changes["revision"]
        for message in changes["messages"]:
            seen[message["message_id"]] = "deleted" in message
    assert sorted(seen) == [update["message"]["message_id"] for update in said]
    assert sum(seen.values()) == 7


def test_history_begins_with_the_newest() -> None:
    network = LocalChat("demo")
    for number in range(10):
        network.say(GROUP, ANN, str(number))
    newest = network.history(GROUP.id, limit=3)["messages"]
    assert [message["text"] for message in newest] == ["7", "8", "9"]


def test_deleted_message_keeps_no_text(tmp_path: Path) -> None:
    path = tmp_path / "chat.sqlite3"
    network = LocalChat("demo", path)
    said = network.say(GROUP, ANN, "my secret")["message"]["message_id"]
    network.delete(GROUP.id, [said])
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*), max(text) FROM message").fetchone() == (1, "")
    connection.close()
    network.close()


def test_file_outlives_the_process_and_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "var" / "chat.sqlite3"
    first = LocalChat("demo", path)
    said = first.say(GROUP, ANN, "Hello")
    network = first.history(GROUP.id)["network"]
    first.close()
    second = LocalChat("demo", str(path))
    assert texts(second) == ["Hello"]
    assert second.history(GROUP.id)["network"] == network
    assert second.say(GROUP, ANN, "Again")["update_id"] > said["update_id"]
    assert len(texts(first)) == 2
    first.close()
    second.close()


def test_new_network_repeats_no_id_of_an_earlier_one() -> None:
    first = LocalChat("demo")
    last = [first.say(GROUP, ANN, "Hello") for _ in range(50)][-1]
    second = LocalChat("demo")
    assert second.say(GROUP, ANN, "Hello")["update_id"] > last["update_id"]
    assert second.history(GROUP.id)["network"] != first.history(GROUP.id)["network"]


def test_bots_that_share_a_file_do_not_see_each_other(tmp_path: Path) -> None:
    path = tmp_path / "chat.sqlite3"
    demo, shop = LocalChat("demo", path), LocalChat("shop", path)
    said = demo.say(PRIVATE, ANN, "Hello")["message"]["message_id"]
    assert texts(shop, PRIVATE) == []
    assert shop.delete(PRIVATE.id, [said]) == set()
    shop.delivered({"update_id": said})
    assert demo.history(PRIVATE.id)["messages"][0]["delivered"] is False
    demo.close()
    shop.close()


def test_threads_lose_nothing(tmp_path: Path) -> None:
    for network in (LocalChat("demo"), LocalChat("demo", tmp_path / "chat.sqlite3")):
        with ThreadPoolExecutor(8) as threads:
            updates = list(
                threads.map(lambda number: network.say(GROUP, ANN, str(number)), range(400))  # noqa: B023
            )
        assert len({update["update_id"] for update in updates}) == 400
        found = network.history(GROUP.id, limit=1000)["messages"]
        assert sorted(int(message["text"]) for message in found) == list(range(400))
        network.close()


def talk(path: str, speaker: str, times: int) -> list[int]:
    """Say and answer; return the ids. Runs in a process of its own."""
    network = LocalChat("demo", path)
    ids = []
    for number in range(times):
        ids.append(network.say(GROUP, User(speaker, speaker), f"{speaker} {number}")["update_id"])
        ids.append(network.post(GROUP.id, f"{speaker} {number}?")["message_id"])
    network.close()
    return ids


@pytest.mark.processes
def test_processes_that_open_and_use_a_file_at_once_lose_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "chat.sqlite3")
    jobs = [(path, f"user{number}", 100) for number in range(4)]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        ids = [number for answer in pool.starmap(talk, jobs) for number in answer]
        pool.close()
        pool.join()
    assert len(set(ids)) == 800
    network = LocalChat("demo", path)
    found = network.history(GROUP.id, limit=1000)["messages"]
    assert sorted(ids) == [message["message_id"] for message in found]
    assert len({message["text"] for message in found}) == 800
    network.close()
