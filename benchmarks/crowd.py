"""Fill a migrated PostgreSQL database as years of talking do: `python -m benchmarks.crowd`.

Four bots of very different size; private chats and groups; names and texts in several scripts.
Most sessions have up to 30 messages, a few have thousands, and one has a hundredth of them all,
said long ago. Some are open, in a flow, expired or quarantined. Updates are those of a week.

Rows are made by the database itself, from their numbers, so that every run has the same.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SESSIONS, MESSAGES, UPDATES = 1_000_000, 10_000_000, 2_000_000
#: Days over which sessions began, messages were said and updates came.
DAYS = {"session": 730, "message": 365, "update": 7}

#: The session that has the most messages; a private one of the largest bot, as its number says.
BUSY = 12
#: A word that the newest messages have, one that only the oldest have, and one that nobody said.
NEW, OLD, NONE = "zebra", "quagga", "dodo"

WORDS = (
    "order table please when tomorrow thanks price delivery open again help coffee tea size blue "
    "red ship late money back yes no maybe photo number street hello good morning friend two three "
    "привет спасибо когда завтра заказ цена доставка хорошо можно ещё адрес "
    "مرحبا شكرا الطلب غدا السعر متى "
    "你好 谢谢 订单 什么时候 价格 明天 "
    "grüße straße für schön bestellung ação coração mañana señor 🙂 👍 🚚"
)
NAMES = (
    "Ann Ben Carla Deniz Elif Fatima George Hiro Ines José Karin Lev Мария Иван 李雷 韩梅梅 "
    "محمد ليلى Nour Oğuz Priya Quentin Rosa Søren Tomáš Uma Vera Wen Ximena Yusuf Zoë"
)

#: A number from 0 to below 1 that belongs to a row's number `n` and a salt.
CHANCE = "((hashint8(n * 16 + {salt})::bigint + 2147483648) / 4294967296::float8)"
#: Of the session number `s`: its bot, its chat and its user.
BOT = """CASE WHEN {s} %% 10000 = 17 AND {s} < %(sessions)s / 2 THEN 'pilot'
    WHEN {s} %% 100 < 60 THEN 'shop' WHEN {s} %% 100 < 85 THEN 'help' ELSE 'news' END"""
IS_GROUP = "({s} %% 10 >= 8)"
USER = "(100000000 + CASE WHEN {s} %% 10 >= 8 THEN ({s} * 7919) %% %(sessions)s ELSE {s} END)::text"
CHAT = "CASE WHEN {s} %% 10 >= 8 THEN '-100' || {s} / 50 ELSE (100000000 + {s})::text END"

STORE_PHRASES = """
CREATE TEMPORARY TABLE phrase ON COMMIT PRESERVE ROWS AS
SELECT n AS id, string_agg(word, ' ' ORDER BY place) AS text
FROM (
    SELECT n, place,
        (%(words)s::text[])[1 + (hashint8(n * 64 + place)::bigint + 2147483648) %% %(n_words)s]
            AS word
    FROM generate_series(0, 9972) n, generate_series(1, 12) place
    WHERE place <= 1 + n %% 12
) AS said
GROUP BY n
"""
STORE_SESSIONS = f"""
INSERT INTO botsessions_botsession
    (bot, chat, "user", thread, qualifier, data, version, is_open, matcher, expires_at, quarantined,
     flow, due_at, created_at, updated_at)
SELECT bot, chat, "user", '', qualifier, data, 3, is_open, '', expires_at, quarantined,
    CASE WHEN flows THEN jsonb_build_object('name', 'checkout', 'id', 'f' || n, 'state', data) END,
    CASE WHEN flows AND waits THEN updated_at + interval '1 day' END,
    now() - age, updated_at
FROM (
    SELECT n, {BOT.format(s="n")} AS bot, {CHAT.format(s="n")} AS chat, {USER.format(s="n")} AS
            "user",
        CASE WHEN n %% 7 = 0 THEN 'order' ELSE '' END AS qualifier,
        jsonb_build_object('step', n %% 9, 'items', to_jsonb(string_to_array(phrase.text, ' ')),
            'note', repeat(phrase.text, CASE WHEN n %% 100 = 0 THEN 40 ELSE 2 END)) AS data,
        {CHANCE.format(salt=1)} < 0.12 AS is_open,
        {CHANCE.format(salt=2)} < 0.03 AS flows,
        n %% 3 > 0 AS waits,
        CASE WHEN {CHANCE.format(salt=3)} < 0.0005 THEN now() - interval '1 hour'
            WHEN {CHANCE.format(salt=3)} < 0.4 THEN now() + interval '90 days' END AS expires_at,
        CASE WHEN {CHANCE.format(salt=4)} < 0.0002 THEN '{{"of": "an older shape"}}'::jsonb END
            AS quarantined,
        age, now() - age * ({CHANCE.format(salt=5)} ^ 1.5) AS updated_at
    FROM (
        SELECT n, (1 - n / (%(sessions)s + 1.0)) * make_interval(days => {DAYS["session"]}) AS age
        FROM generate_series(1, %(sessions)s::bigint) n
    ) AS numbered
    JOIN phrase ON phrase.id = n %% 9973
) AS made
"""
STORE_MESSAGES = f"""
INSERT INTO botsessions_trackedmessage
    (session_id, chat, message_id, direction, kind, is_service, "user", business, name, reply_to,
     text, sent_at, update_id, ordinal)
SELECT s, {CHAT.format(s="s")}, n::text, CASE WHEN is_said THEN 'incoming' ELSE 'outgoing' END,
    CASE WHEN n %% 50 = 0 THEN 'photo' ELSE 'text' END, n %% 400 = 0,
    CASE WHEN is_said THEN {USER.format(s="s")} ELSE '' END, '',
    CASE WHEN is_said THEN (%(names)s::text[])[1 + s %% %(n_names)s] ELSE '' END, '',
    one.text || ' ' || two.text || CASE
        WHEN n %% 5000 = 0 AND n > %(messages)s - 50000 THEN ' {NEW}'
        WHEN n %% 5000 = 0 AND n < %(messages)s / 4 THEN ' {OLD}' ELSE '' END,
    now() - (1 - n / (%(messages)s + 1.0)) * make_interval(days => {DAYS["message"]}), 'u' || n, 0
FROM (
    SELECT n, n %% 3 > 0 AS is_said, CASE
        WHEN n %% 50 = 0 AND n < %(messages)s / 2 THEN {BUSY}
        WHEN n %% 500 = 1 THEN 20 + n / 500 %% 10 * (%(sessions)s / 20)
        ELSE 1 + floor((%(sessions)s - 1) * {CHANCE.format(salt=6)} ^ 1.5)::bigint END AS s
    FROM generate_series(1, %(messages)s::bigint) n
) AS numbered
JOIN phrase AS one ON one.id = n %% 9973
JOIN phrase AS two ON two.id = n / 9973 %% 9973
"""
STORE_UPDATES = f"""
INSERT INTO botsessions_botupdate
    (bot, update_id, type, mailbox, status, attempts, payload, error, received_at, finished_at)
SELECT bot, n::text, CASE WHEN n %% 5 = 0 THEN 'callback_query' WHEN n %% 10007 = 1 THEN 'poll'
        ELSE 'message' END,
    bot || ':' || chat || ':' || "user", status, 1,
    CASE WHEN status <> 'done' THEN jsonb_build_object('bot', bot, 'id', n::text, 'text', chat) END,
    CASE WHEN status = 'parked' THEN repeat('Traceback: a line of code that failed' || chr(10), 30)
        ELSE '' END, at, CASE WHEN status = 'done' THEN at END
FROM (
    SELECT n, {BOT.format(s="s")} AS bot, {CHAT.format(s="s")} AS chat, {USER.format(s="s")} AS
            "user",
        CASE WHEN n > %(updates)s - 200 THEN 'pending' WHEN n %% 5003 = 7 THEN 'parked'
            WHEN n %% 40009 = 9 THEN 'held' ELSE 'done' END AS status,
        now() - (1 - n / (%(updates)s + 1.0)) * make_interval(days => {DAYS["update"]}) AS at
    FROM (
        SELECT n, 1 + floor((%(sessions)s - 1) * {CHANCE.format(salt=7)} ^ 1.5)::bigint AS s
        FROM generate_series(1, %(updates)s::bigint) n
    ) AS numbered
) AS made
"""
STORE_DELETIONS = """
INSERT INTO botsessions_messagedeletion
    (bot, through, status, cursor, last_message, busy, total, deleted, gone, too_old, forbidden,
     failed, forgets, requested_by, created_at, selection)
SELECT 'shop', 'shop', CASE WHEN n > 2000 THEN 'running' ELSE 'done' END, 0, 0, '[]', 100000, 60000,
    10, 5, 0, 2, false, 'operator', now() - (2003 - n) * interval '1 hour', '{"bot": "shop"}'
FROM generate_series(1, 2003) n
"""
STORE_CHUNKS = """
INSERT INTO botsessions_deletionchunk
    (deletion_id, chat, business, messages, outcomes, attempts, token, error)
SELECT d, '-100' || c, '',
    (SELECT jsonb_agg(jsonb_build_array(m::text, 1700000000)) FROM generate_series(1, 100) m),
    (SELECT jsonb_object_agg(m::text, 'deleted') FROM generate_series(1, 100) m), 0, '', ''
FROM generate_series(2001, 2003) d, generate_series(1, 1000) c
"""
STORE_LEASES = """
INSERT INTO botsessions_mailboxlease (key, token, acquired_at, expires_at)
SELECT 'shop:' || n, 'web-1', now(), now() + interval '1 hour' FROM generate_series(1, 200) n
"""
STORE_ERASURES = """
INSERT INTO botsessions_erasure (bot, kind, subject, counts, token, requested_by, created_at,
    finished_at)
SELECT 'shop', 'user', md5(n::text) || md5(n::text), '{"sessions": 2}', '', 'operator', now(), now()
FROM generate_series(1, 5000) n
"""
STORE_LOG = """
INSERT INTO django_admin_log (action_time, user_id, content_type_id, object_id, object_repr,
    action_flag, change_message)
SELECT now() - n * interval '1 minute', u.id, c.id, n::text, 'shop:' || n, 2, 'Cleared.'
FROM generate_series(1, 10000) n, auth_user u, django_content_type c
WHERE c.model = 'botsession' AND u.username = 'root'
"""
STORE = {
    "botsession": STORE_SESSIONS,
    "trackedmessage": STORE_MESSAGES,
    "botupdate": STORE_UPDATES,
    "messagedeletion": STORE_DELETIONS,
    "deletionchunk": STORE_CHUNKS,
    "mailboxlease": STORE_LEASES,
    "erasure": STORE_ERASURES,
}


@contextmanager
def bare(cursor: Any, table: str) -> Iterator[None]:
    """Take a table's indexes and keys away while it is filled, all but the primary one."""
    cursor.execute(
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE conrelid = %s::regclass AND contype IN ('u', 'f') ORDER BY contype DESC",
        [table],
    )
    constraints = cursor.fetchall()
    for name, _ in constraints:
        cursor.execute(f'ALTER TABLE {table} DROP CONSTRAINT "{name}"')
    cursor.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = %s AND indexname <> %s",
        [table, f"{table}_pkey"],
    )
    indexes = cursor.fetchall()
    for name, _ in indexes:
        cursor.execute(f'DROP INDEX "{name}"')
    yield
    for _, definition in indexes:
        cursor.execute(definition)
    for name, definition in constraints:
        cursor.execute(f'ALTER TABLE {table} ADD CONSTRAINT "{name}" {definition}')


def fill(sessions: int, messages: int, updates: int) -> None:
    """Fill the empty tables; numbers and ids agree, because these are the first rows."""
    from django.contrib.auth.models import Permission, User
    from django.db import connection

    User.objects.create_superuser("root")
    limited = User.objects.create(username="eve", is_staff=True)
    seen = ("view_botsession", "view_trackedmessage", "view_botupdate", "close_botsession")
    limited.user_permissions.set(Permission.objects.filter(codename__in=seen))
    words, names = WORDS.split(), NAMES.split()
    given = {
        "sessions": sessions, "messages": messages, "updates": updates,
        "words": words, "n_words": len(words), "names": names, "n_names": len(names),
    }  # fmt: skip
    with connection.cursor() as cursor:
        # Joins that are done in memory keep the order of the numbers.
        cursor.execute("SET work_mem = '256MB'; SET maintenance_work_mem = '512MB'")
        cursor.execute(STORE_PHRASES, given)
        cursor.execute("ANALYZE phrase")
        for name, statement in STORE.items():
            with bare(cursor, f"botsessions_{name}"):
                cursor.execute(statement, given if "%(" in statement else None)
        cursor.execute(STORE_LOG)
        cursor.execute("VACUUM ANALYZE")


def sizes(parser: argparse.ArgumentParser) -> None:
    """Let a command line say how many rows there are to be."""
    for name, number in (("sessions", SESSIONS), ("messages", MESSAGES), ("updates", UPDATES)):
        parser.add_argument(
            f"--{name}", type=int, default=number, help=f"of the admin's database ({number:,})"
        )


def main() -> None:
    import django

    parser = argparse.ArgumentParser(prog="python -m benchmarks.crowd", description=__doc__)
    sizes(parser)
    options = parser.parse_args()
    django.setup()
    fill(options.sessions, options.messages, options.updates)
    sys.stderr.write("filled\n")


if __name__ == "__main__":
    main()
