"""The windows in Redis, through the client of a django-redis cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from django.core.cache import caches

from botsessions.exceptions import Unavailable, told
from botsessions.pacing.window import EXACT, Request, Verdict, farthest

if TYPE_CHECKING:
    from redis.commands.core import Script

#: What every key begins with, after the cache's own prefix. The braces keep the windows of a bot on
#: one node of a cluster.
NAME: Final = "botsessions:rate:{%s}:%s"

#: Seconds that are as good as any number above them, in JSON, which has no infinity.
FOREVER: Final = 1e9

#: `decide`, on hashes of `times` (a JSON list) and `paused` (until when). A hash lives for as long
#: as it can hold anything up.
ACQUIRE: Final = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local asked = cjson.decode(ARGV[1])
local windows, waited, verdicts = {}, {}, {}
for number, key in ipairs(KEYS) do
    local found = redis.call('HMGET', key, 'times', 'paused')
    windows[number] = {
        times = cjson.decode(found[1] or '[]'), paused = tonumber(found[2] or '0'), seconds = 0
    }
end
local function booked(part, cost, at)
    local times = {}
    for message = 1, part.count > 0 and cost or 0 do
        times[message] = at + math.floor((message - 1) / part.count) * part.seconds
    end
    return times
end
for number, request in ipairs(asked.requests) do
    local cost, late, which = request.cost, now, 0
    for _, part in ipairs(cost > 0 and request.windows or {}) do
        local window, times = windows[part.key], windows[part.key].times
        local latest = now + asked.lag + part.farthest
        if part.count > 0 and #times > 0 and times[#times] > latest then
            for place, at in ipairs(times) do
                if at > latest then times[place] = now end
            end
            table.sort(times)
            window.changed, window.seconds = true, part.seconds
        end
    end
    for _, part in ipairs(request.booked > 0 and request.windows or {}) do
        local window = windows[part.key]
        for _, at in ipairs(booked(part, cost, request.booked)) do
            for place, each in ipairs(window.times) do
                if math.abs(each - at) < asked.exact then
                    table.remove(window.times, place)
                    window.changed, window.seconds = true, part.seconds
                    break
                end
            end
        end
    end
    for _, part in ipairs(request.is_made and {} or request.windows) do
        local window, count = windows[part.key], part.count
        local due = math.max(window.paused, waited[part.key] or 0)
        if count > 0 and cost > 0 then
            local oldest = window.times[#window.times - count + math.min(cost, count)]
            if oldest then due = math.max(due, oldest + part.seconds) end
        end
        if due > late then late, which = due, part.key end
    end
    local moment, span = request.is_made and now or now + asked.lag, 0
    if which > 0 then
        waited[which] = late
        local keeps = cost > 1 and late - now <= request.patience
        moment, span = keeps and late + asked.lag or 0, late - now - asked.lag - asked.exact
    end
    local at = 0
    for _, part in ipairs(moment > 0 and request.windows or {}) do
        local window = windows[part.key]
        local times = window.times
        if which == 0 or part.count > 0 and span <= part.seconds then
            at = moment
            for _, at in ipairs(booked(part, cost, moment)) do
                times[#times + 1] = at
                window.changed, window.seconds = true, part.seconds
            end
            table.sort(times)
            if part.count > 0 then
                window.times = {unpack(times, math.max(#times - part.count + 1, 1))}
            end
        end
    end
    verdicts[number] = {
        string.format('%.6f', late - now), which, string.format('%.6f', which == 0 and moment or at)
    }
end
for number, key in ipairs(KEYS) do
    local window = windows[number]
    if window.changed then
        local texts = {}
        for place, at in ipairs(window.times) do texts[place] = string.format('%.6f', at) end
        redis.call('HSET', key, 'times', '[' .. table.concat(texts, ',') .. ']')
        local last = window.times[#window.times] or now
        local lives = math.max(window.paused, last + window.seconds) - now
        redis.call('PEXPIRE', key, math.ceil(lives * 1000) + 1000)
    end
end
return verdicts
"""

PAUSE: Final = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local seconds = tonumber(ARGV[1])
if tonumber(redis.call('HGET', KEYS[1], 'paused') or '0') < now + seconds then
    redis.call('HSET', KEYS[1], 'paused', string.format('%.6f', now + seconds))
end
local lives = math.ceil(seconds * 1000) + 1000
if redis.call('PTTL', KEYS[1]) < lives then redis.call('PEXPIRE', KEYS[1], lives) end
"""


class RedisWindows:
    """The windows in the Redis behind the cache of that alias.

    Redis runs a script by itself, so no two processes are granted the same room. For whatever goes
    wrong a verb raises `Unavailable`.
    """

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self._scripts: dict[str, Script] = {}

    def acquire(self, requests: Sequence[Request], lag: float) -> list[Verdict]:
        numbers: dict[str, int] = {}
        asked = [
            {
                "cost": request.cost,
                "booked": request.booked,
                "patience": min(request.patience, FOREVER),
                "is_made": request.is_made,
                "windows": [
                    {
                        "key": numbers.setdefault(key, len(numbers) + 1),
                        "count": rate.count if rate else 0,
                        "seconds": rate.seconds if rate else 0,
                        "farthest": farthest(rate) if rate else 0,
                    }
                    for key, rate in request.windows
                ],
            }
            for request in requests
        ]
        keys = list(numbers)
        body = msgspec.json.encode({"lag": lag, "exact": EXACT, "requests": asked})
        return [
            Verdict(float(wait) if number else 0.0, keys[number - 1] if number else "", float(at))
            for wait, number, at in self._run(ACQUIRE, keys, body)
        ]

    def pause(self, key: str, seconds: float) -> None:
        self._run(PAUSE, [key], f"{seconds:.6f}")

    def _run(self, text: str, keys: Sequence[str], argument: bytes | str) -> Any:
        try:
            cache: Any = caches[self.alias]
            client = cache.client.get_client(write=True)
            script = self._scripts.get(text)
            if script is None:
                script = self._scripts[text] = client.register_script(text)
            names = [str(cache.make_key(NAME % tuple(key.split(":", 1)))) for key in keys]
            return script(names, [argument], client=client)
        except Exception as error:  # of django-redis, of its client, of the settings of either
            raise Unavailable(
                f"The Redis of the cache '{self.alias}' is away: {told(error)}"
            ) from error
