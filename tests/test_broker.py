"""The broker made of files: whole messages, one reader each, nothing that stops a worker."""

import logging
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from kombu import Connection
from kombu.simple import SimpleQueue

WRITERS = 4
READERS = 4
MESSAGES = 100


def connect(folder: Path) -> Connection:
    return Connection(
        "filesystem://",
        transport="project.broker:Transport",
        transport_options={
            "data_folder_in": str(folder / "messages"),
            "data_folder_out": str(folder / "messages"),
            "control_folder": str(folder / "control"),
        },
    )


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[SimpleQueue]:
    with connect(tmp_path) as connection, connection.SimpleQueue("tasks") as queue:
        yield queue


def take(queue: SimpleQueue) -> Any:
    message = queue.get(timeout=1)
    message.ack()
    return message.payload


def put_many(folder: Path, writer: int) -> None:
    with connect(folder) as connection, connection.SimpleQueue("tasks") as queue:
        for number in range(MESSAGES):
            queue.put({"writer": writer, "number": number})


def take_all(folder: Path, taken: Any) -> None:
    """Take messages until none has come for a second, and report them."""
    mine: list[tuple[int, int]] = []
    with connect(folder) as connection, connection.SimpleQueue("tasks") as queue:
        while True:
            try:
                payload = take(queue)
            except Empty:
                break
            mine.append((payload["writer"], payload["number"]))
    taken.put(mine)


def test_messages_leave_in_the_order_they_came(queue: SimpleQueue, tmp_path: Path) -> None:
    for number in range(20):
        queue.put({"number": number})

    assert [take(queue)["number"] for _ in range(20)] == list(range(20))
    assert list((tmp_path / "messages").iterdir()) == []


def test_an_empty_queue_is_empty_after_its_timeout(queue: SimpleQueue) -> None:
    with pytest.raises(Empty):
        queue.get(timeout=0.1)


@pytest.mark.parametrize(
    "content",
    [b"", b'{"body": "eyJ', b"\xff\xfe", b"[1]", b"null"],
    ids=["empty", "half_written", "not_text", "not_a_message", "null"],
)
def test_a_file_that_is_no_message_is_removed_and_the_next_is_read(
    queue: SimpleQueue, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    broken = tmp_path / "messages" / "00000000000000000000_broken.tasks.msg"
    broken.write_bytes(content)
    queue.put({"number": 1})

    with caplog.at_level(logging.WARNING, "project.broker"):
        assert take(queue) == {"number": 1}

    assert not broken.exists()
    assert str(broken) in caplog.text


def test_a_message_being_written_is_not_read(queue: SimpleQueue, tmp_path: Path) -> None:
    temporary = tmp_path / "messages" / ".5d0c.tmp"
    temporary.write_text('{"body"')

    with pytest.raises(Empty):
        queue.get(timeout=0.1)

    assert temporary.exists()


def test_a_message_not_acknowledged_goes_back_when_its_reader_leaves(tmp_path: Path) -> None:
    with connect(tmp_path) as connection, connection.SimpleQueue("tasks") as queue:
        queue.put({"number": 1})
        queue.get(timeout=1)

    with connect(tmp_path) as connection, connection.SimpleQueue("tasks") as queue:
        assert take(queue) == {"number": 1}


def test_a_broken_exchange_table_is_repaired_by_the_next_queue(tmp_path: Path) -> None:
    table = tmp_path / "control" / "tasks.exchange"
    table.parent.mkdir()
    table.write_bytes(b"")

    with connect(tmp_path) as connection, connection.SimpleQueue("tasks") as queue:
        queue.put({"number": 1})
        assert take(queue) == {"number": 1}


def test_a_deleted_queue_takes_its_messages_and_its_binding_with_it(tmp_path: Path) -> None:
    with connect(tmp_path) as connection, connection.SimpleQueue("tasks") as queue:
        queue.put({"number": 1})
        queue.queue.delete()

        assert list((tmp_path / "messages").iterdir()) == []
        assert (tmp_path / "control" / "tasks.exchange").read_text() == "[]"


def test_processes_that_write_and_read_at_once_lose_nothing_and_take_nothing_twice(
    tmp_path: Path,
) -> None:
    processes = multiprocessing.get_context("spawn")
    taken = processes.Queue()
    started = [
        *(processes.Process(target=put_many, args=(tmp_path, writer)) for writer in range(WRITERS)),
        *(processes.Process(target=take_all, args=(tmp_path, taken)) for _ in range(READERS)),
    ]
    for process in started:
        process.start()
    for process in started[:WRITERS]:
        process.join(60)
    by_reader = [taken.get(timeout=60) for _ in range(READERS)]
    for process in started[WRITERS:]:
        process.join(60)
    taken.close()
    taken.join_thread()
    # A reader may have left before a slow writer came: what it left is still there.
    take_all(tmp_path, rest := processes.Queue())
    by_reader.append(rest.get(timeout=60))
    rest.close()
    rest.join_thread()

    everything = [message for messages in by_reader for message in messages]
    assert [process.exitcode for process in started] == [0] * len(started)
    assert sorted(everything) == [(w, n) for w in range(WRITERS) for n in range(MESSAGES)]
