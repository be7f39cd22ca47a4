"""On PostgreSQL every statement goes by index, also when the tables have grown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from botsessions.keys import SessionKey
from botsessions.mailboxes.base import Opening
from botsessions.mailboxes.contract.cases import arrival, done, failed, save, seen, sent
from botsessions.mailboxes.database import DatabaseMailbox
from botsessions.mailboxes.statements.base import Tuples
from botsessions.mailboxes.statements.postgresql import PostgreSQLStatements

#: Rows as they are after a week: nearly all done, and 500 pending in as many mailboxes.
FILL = (
    """
    INSERT INTO botsessions_botupdate
        (bot, update_id, type, mailbox, status, attempts, payload, error, received_at)
    SELECT 'demo', 'u' || n, 'message', 'demo:' || n % 5000,
        CASE WHEN n <= 500 THEN 'pending' ELSE 'done' END, 0,
        CASE WHEN n <= 500 THEN '{"bot": "demo", "id": "1", "type": "message"}'::jsonb END,
        '', now()
    FROM generate_series(1, 50000) AS n
    """,
    """
    INSERT INTO botsessions_botsession (
        bot, chat, "user", thread, qualifier, data, version, is_open, created_at, updated_at
    )
    SELECT 'demo', 'c' || n, 'u' || n % 1000, '', '', '{}', 1, true, now(), now()
    FROM generate_series(1, 50000) AS n
    """,
    """
    INSERT INTO botsessions_trackedmessage (
        session_id, chat, message_id, direction, kind, is_service, "user", business, text,
        sent_at, update_id, ordinal
    )
    SELECT id, 'filled', n, 'incoming', 'text', false, '', '', '', now(), '', 0
    FROM (SELECT * FROM botsessions_botsession LIMIT 5000) AS s, generate_series(1, 10) AS n
    """,
)
ANALYZE = "ANALYZE botsessions_botupdate, botsessions_botsession, botsessions_trackedmessage"
#: What may be read whole: the leases of what is worked on just now, and the queue of what waits.
SMALL = {"botsessions_mailboxlease", "botsessions_mailboxlease_pkey", "botsessions_pending"}


class Recorded(PostgreSQLStatements):
    """Remembers each statement with the parameters of its last use."""

    seen: dict[str, dict[str, Any]] = {}

    def execute(self, sql: str, parameters: dict[str, Any]) -> Tuples:
        self.seen[sql] = parameters
        return super().execute(sql, parameters)

    def explain(self, sql: str) -> dict[str, Any]:
        call = self._call(sql, self.seen[sql])
        [[(text,)]] = self._query(b"EXPLAIN (FORMAT JSON) EXECUTE " + call)
        return dict(json.loads(text)[0]["Plan"])


def execute(*statements: str) -> None:
    with connection.cursor() as cursor:
        for each in statements:
            cursor.execute(each)


def use_all(mailbox: DatabaseMailbox) -> None:
    """Call every verb, so that every statement has been prepared while the tables were small."""
    key = SessionKey("demo", "ann")
    one, two, three = arrival(sessions=[key]), arrival(), arrival(mailbox="demo:7")
    mailbox.admit([one, two, three], "one")
    mailbox.load([[key]])
    mailbox.store([one])
    mailbox.record([sent(one, 0, "7", session=key)])
    mailbox.renew([("demo:ann", "one")])
    mailbox.commit([failed(one), done(three, "one", save(SessionKey("demo", "c"), 1), go_on=False)])
    mailbox.admit([one], "three")
    emptied = save(key, None)
    emptied.is_deleted = True
    mailbox.commit([done(one, "three", emptied)])
    mailbox.track([Opening(key)], seen(key, "8"))
    mailbox.find([one])
    mailbox.recover(100, "two")


def read_whole(node: dict[str, Any]) -> list[str]:
    """Return the tables and indexes that a plan reads from one end to the other."""
    found = []
    if node["Node Type"] == "Seq Scan":
        found.append(node["Relation Name"])
    elif "Index Name" in node and "Index Cond" not in node:
        found.append(node["Index Name"])
    for each in node.get("Plans", ()):
        found += read_whole(each)
    return found


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("analyzed", ["never", "empty", "grown"])
def test_no_statement_reads_a_table_from_end_to_end(
    analyzed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL has these plans")
    monkeypatch.setattr(Recorded, "seen", {})
    mailbox = DatabaseMailbox(statements=Recorded)
    for _ in range(10):  # PostgreSQL makes the plan that it keeps at the sixth time
        with transaction.atomic():
            use_all(mailbox)
            transaction.set_rollback(True)
        mailbox.load([[SessionKey("demo", "ann")]])
    if analyzed == "empty":
        execute(ANALYZE)
    use_all(mailbox)
    execute(*FILL)
    if analyzed == "grown":
        execute(ANALYZE)
    statements = mailbox.statements
    assert isinstance(statements, Recorded)
    assert len(statements.seen) >= 15
    with statements.atomic():
        statements.begin(durable=True)
        for sql in list(statements.seen):
            plan = statements.explain(sql)
            assert SMALL.issuperset(read_whole(plan)), (sql, plan)


@pytest.mark.django_db
def test_look_for_deadlines_reads_what_is_due_and_no_more() -> None:
    """Of 50,000 sessions, 5,000 of which wait for a later moment, three are due."""
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL has these plans")
    execute(
        FILL[1],
        """
        UPDATE botsessions_botsession SET flow = '{"name": "x"}',
            due_at = now() + make_interval(secs => id % 5000 + 60)
        WHERE id % 10 = 0
        """,
        """
        UPDATE botsessions_botsession SET flow = '{"name": "x"}', due_at = now() - interval '1 s'
        WHERE chat IN ('c1', 'c2', 'c3')
        """,
        "ANALYZE botsessions_botsession",
    )
    with CaptureQueriesContext(connection) as captured:
        found = DatabaseMailbox().due(["demo", "other"], 500)
    assert sorted(key.chat for key, _ in found) == ["c1", "c2", "c3"]
    look = next(each["sql"] for each in captured if "due_at" in each["sql"])
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (FORMAT JSON) {look}")
        [(plan,)] = cursor.fetchall()
    assert "botsessions_due" in json.dumps(plan)
    assert read_whole(plan[0]["Plan"]) == []
