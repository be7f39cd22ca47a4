"""`FileStore`: the contract, its names, and what it makes of broken files (S38)."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from botsessions.exceptions import Unavailable
from botsessions.keys import SessionKey
from botsessions.stores import FileStore, file
from botsessions.stores.contract import ANN, BEN, PARTS, loaded, saved
from botsessions.testing import StoreContract

SetClock = Callable[[timedelta], datetime]


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore("files", {"DIRECTORY": tmp_path / "a" / "b"})


class TestContract(StoreContract):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = tmp_path
        # What the disk does is not under test here, and takes half a minute on some.
        monkeypatch.setattr(os, "fsync", lambda handle: None)

    def store(self) -> FileStore:
        return FileStore("files", {"DIRECTORY": self.directory / "one"})

    def other(self) -> FileStore:
        return FileStore("files", {"DIRECTORY": str(self.directory / "two")})


class TestNames:
    def test_plain_key_is_readable(self, store: FileStore) -> None:
        assert store.path(ANN).name == "demo+ann+ann.json"
        assert store.path(SessionKey("demo", "-100", "7")).name == "demo+-100+7.json"

    def test_no_key_leads_out_of_the_directory_or_to_a_name_with_a_meaning(
        self, store: FileStore
    ) -> None:
        for part in PARTS:
            for key in (SessionKey("demo", part), SessionKey(part), SessionKey(part, part, part)):
                path = store.path(key)
                assert path.parent == store.directory
                assert re.fullmatch(r"(~[0-9a-f]{64}|[a-z0-9_-]+[+][a-z0-9_+-]*)\.json", path.name)
                assert len(path.name) < 130

    def test_names_differ_where_the_file_system_ignores_case(self, store: FileStore) -> None:
        names = [store.path(SessionKey("demo", part)).name.lower() for part in PARTS]
        assert len(set(names)) == len(PARTS)

    def test_key_that_is_no_unicode_has_a_name_all_the_same(self, store: FileStore) -> None:
        assert store.path(SessionKey("demo", "\ud800")) != store.path(SessionKey("demo", "\ud801"))


class TestFiles:
    def test_file_is_one_json_record(self, store: FileStore, set_clock: SetClock) -> None:
        now = set_clock(timedelta())
        store.save([saved(ANN, {"items": ["tea"]}, 60), saved(BEN, 1)])
        record = json.loads(store.path(ANN).read_text())
        assert record["key"] == "demo:ann:ann"
        assert record["data"] == {"items": ["tea"]}
        assert datetime.fromisoformat(record["expires_at"]) == now + timedelta(seconds=60)
        assert json.loads(store.path(BEN).read_text())["expires_at"] is None

    def test_files_are_the_users_own(self, store: FileStore) -> None:
        store.save([saved(ANN, 1)])
        assert stat.S_IMODE(store.path(ANN).stat().st_mode) == 0o600
        assert stat.S_IMODE(store.directory.stat().st_mode) == 0o700

    def test_nothing_but_the_files_is_left(self, store: FileStore) -> None:
        store.save([saved(ANN, 1), saved(BEN, 2)])
        store.delete([BEN])
        names = sorted(path.name for path in store.directory.iterdir())
        assert names == [".lock", "demo+ann+ann.json"]

    def test_value_is_live_to_the_very_end(self, store: FileStore, set_clock: SetClock) -> None:
        """S44: exactly equal age is live, older is expired."""
        store.save([saved(ANN, 1, 1)])
        set_clock(timedelta(seconds=1))
        assert loaded(store, ANN) == [1]
        assert store.clear_expired() == 0
        set_clock(timedelta(seconds=1, microseconds=1))
        assert loaded(store, ANN) == [None]
        assert store.clear_expired() == 1
        assert not store.path(ANN).exists()

    def test_value_saved_while_the_expired_one_is_cleared_stays(
        self, store: FileStore, set_clock: SetClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.save([saved(ANN, "old", 1)])
        set_clock(timedelta(seconds=2))
        real = store._read
        read: list[Path] = []

        def save_after_the_first_look(path: Path) -> Any:
            record = real(path)
            if not read:
                read.append(path)
                store.save([saved(ANN, "new")])
            return record

        monkeypatch.setattr(store, "_read", save_after_the_first_look)
        assert store.clear_expired() == 0
        assert loaded(store, ANN) == ["new"]

    def test_process_that_dies_while_it_writes_leaves_the_old_value(
        self, store: FileStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.save([saved(ANN, "old")])

        def die(handle: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", die)
        with pytest.raises(Unavailable, match="No space left"):
            store.save([saved(ANN, "new")])
        monkeypatch.undo()
        assert loaded(store, ANN) == ["old"]
        assert len(list(store.directory.glob("*.tmp"))) == 0

    def test_what_a_crash_left_is_cleared_when_it_is_old(self, store: FileStore) -> None:
        store.save([saved(ANN, 1)])
        old, new = store.directory / "old.tmp", store.directory / "new.tmp"
        for each in (old, new):
            each.write_text('{"key": "demo:')
        past = time.time() - file.ABANDONED - 1
        os.utime(old, (past, past))
        assert store.clear_expired() == 0
        assert (old.exists(), new.exists()) == (False, True)
        assert loaded(store, ANN) == [1]

    @pytest.mark.parametrize(
        "content",
        [
            b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"key": "demo:ann:ann"}', b"\x80\x04N.",
            b'{"key": "demo:ann:ann", "data": {"n": 1}, "expires_at": "2999-01-01',
            b'{"key": "demo:ann:ann", "data": {"n": 1}, "expires_at": "2999-01-01T00:00:00"}',
            b'{"key": "demo:ann:ann", "data": {"n": 1}, "expires_at": 7}',
        ],
    )  # fmt: skip
    def test_file_that_is_no_record_is_none_and_logged(
        self, store: FileStore, content: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        """S38: unreadable is None."""
        store.save([saved(ANN, 1), saved(BEN, 2)])
        store.path(ANN).write_bytes(content)
        assert loaded(store, ANN, BEN) == [None, 2]
        assert "demo+ann+ann.json" in caplog.text
        assert store.clear_expired() == 0
        assert store.delete([ANN]) == 0
        store.save([saved(ANN, 3)])
        assert loaded(store, ANN) == [3]

    def test_record_of_another_key_is_none(self, store: FileStore) -> None:
        store.save([saved(ANN, 1)])
        os.replace(store.path(ANN), store.path(BEN))
        assert loaded(store, ANN, BEN) == [None, None]

    def test_directory_in_the_place_of_a_file_is_none(self, store: FileStore) -> None:
        store.path(ANN).mkdir(parents=True)
        assert loaded(store, ANN) == [None]

    def test_file_that_cannot_be_read_just_now_is_not_none(
        self, store: FileStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.save([saved(ANN, 1)])

        def fail(path: Path) -> bytes:
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(Path, "read_bytes", fail)
        with pytest.raises(Unavailable, match="Too many"):
            store.load([ANN])

    def test_directory_that_cannot_be_made_is_unavailable(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        store = FileStore("files", {"DIRECTORY": tmp_path / "file" / "sessions"})
        with pytest.raises(Unavailable, match="cannot be used"):
            store.save([saved(ANN, 1)])

    def test_directory_is_where_the_process_started(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        store = FileStore("files", {})
        monkeypatch.chdir("/")
        assert store.directory == tmp_path / ".sessions"


class TestCheck:
    def test_sound_directory_is_not_made_by_the_check(self, store: FileStore) -> None:
        assert list(store.check()) == []
        assert not store.directory.exists()

    @pytest.mark.parametrize("directory", [7, None, "", b"x"])
    def test_directory_that_is_no_path_is_told(self, directory: object) -> None:
        [error] = FileStore("files", {"DIRECTORY": directory}).check()
        assert error.id == "botsessions.E007"
        assert repr(directory) in error.msg

    def test_directory_that_cannot_be_written_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("")
        for name in ("file", "file/below"):
            [error] = FileStore("files", {"DIRECTORY": tmp_path / name}).check()
            assert error.id == "botsessions.E007"
            assert "file" in error.msg
        # Whoever runs the tests may be root, who may write anywhere.
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        [error] = FileStore("files", {"DIRECTORY": tmp_path}).check()
        assert str(tmp_path) in error.msg
