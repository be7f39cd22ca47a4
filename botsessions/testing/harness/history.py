"""What is said, what is said twice, and who is struck where: all of it chosen by the seed.

The same seed makes the same history. What happens in it depends on the machine's timing too: a seed
that found something is likely to find it again, not certain.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from botsessions.testing.harness.wire import Sign
from botsessions.testing.points import POINTS
from botsessions.updates import Chat, Message, Update, UpdateType, User

#: The commands of the harness's bot, by how often they are given.
COMMANDS = {"hear": 9, "say": 4, "slow": 2, "block": 2}
#: The sizes of bursts, by how often there are such.
BURSTS = {1: 6, 2: 2, 3: 1, 5: 1}
#: The most updates of one chat: what its session hears must fit into it.
MOST_OF_A_CHAT = 2_000


@dataclass(frozen=True)
class Options:
    """What is asked of the harness."""

    processes: int = 4
    updates: int = 2_000
    chats: int = 20
    duplicates: float = 0.3
    kills: int = 12
    pauses: int = 2
    seed: int = 0
    timeout: float = 120.0
    store: str = "default"
    mailbox: str = "botsessions.mailboxes.database.DatabaseMailbox"


@dataclass(frozen=True)
class Said:
    """One thing said in a chat: its `number` there, from 1, and the update that reports it.

    `copy` is delivered at the same time, once, to whichever process: this update or one before it.
    """

    number: int
    update: Update
    copy: Update | None = None


#: Things said so fast that they are delivered together: they are accepted in any order, but before
#: the next burst, which begins when all of them are acknowledged. Most are of one.
Burst = list[Said]


@dataclass(frozen=True)
class Blow:
    """What befalls a process when it next reaches a point of the engine, with such a command."""

    sign: Sign
    point: str
    command: str


def chats(alias: str, options: Options) -> dict[str, list[Burst]]:
    """Return what is said in each chat, in order; the ids of all updates are 1 to `updates`."""
    number = min(options.chats, options.updates)
    return {f"{chat}": _bursts(alias, chat, options) for chat in range(number)}


def _bursts(alias: str, chat: int, options: Options) -> list[Burst]:
    rng = random_of(options, f"chat {chat}")
    updates: list[Update] = []
    bursts: list[Burst] = []
    room = 0
    for number, id in enumerate(range(chat + 1, options.updates + 1, options.chats), 1):
        [command] = rng.choices(list(COMMANDS), list(COMMANDS.values()))
        updates.append(_update(alias, f"{chat}", f"{id}", f"/{command} {number}"))
        copy = None
        if rng.random() < options.duplicates:
            # One that is on its way still is a race; an old one is only to be recognised.
            copy = updates[-1] if rng.random() < 0.5 else rng.choice(updates)
        if not room:
            [room] = rng.choices(list(BURSTS), list(BURSTS.values()))
            bursts.append([])
        room -= 1
        bursts[-1].append(Said(number, updates[-1], copy))
    return bursts


def _update(alias: str, chat: str, id: str, text: str) -> Update:
    place, person = Chat(chat), User(chat)
    said = Message(id, place, person, text=text)
    return Update(
        alias, id, UpdateType.MESSAGE.value, chat=place, user=person, message=said, text=text
    )


def blows(options: Options) -> list[Blow]:
    """Return the kills and pauses, in order: every point once, as far as there are enough kills."""
    rng = random_of(options, "blows")
    points = rng.sample(POINTS, min(options.kills, len(POINTS)))
    points += rng.choices(POINTS, k=options.kills - len(points))
    signs = [Sign.KILL] * options.kills + [Sign.PAUSE] * options.pauses
    points += rng.choices(POINTS, k=options.pauses)
    struck = [
        Blow(sign, point, "say" if point == "sent" else rng.choice(list(COMMANDS)))
        for sign, point in zip(signs, points, strict=True)
    ]
    rng.shuffle(struck)
    return struck


def random_of(options: Options, part: str) -> random.Random:
    """Return the source of chance for one part: it does not depend on what the others have used."""
    return random.Random(f"{options.seed} {part}")  # noqa: S311
