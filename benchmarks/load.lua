-- The load: private Telegram text messages of BENCH_USERS users, each update with an id of its own.
--
-- wrk is run with one thread, so there is one Lua state and one counter. When BENCH_SECONDS are over, or BENCH_UPDATES
-- are sent, a connection that asks for its next request is given none; once all of them rest, everything that was sent
-- has been answered, and wrk is told to finish. So what was acknowledged is known exactly.

local ffi = require("ffi")
ffi.cdef [[
  typedef struct { long seconds; long microseconds; } bench_time;
  int gettimeofday(bench_time *time, void *zone);
  int getpid(void);
  int kill(int pid, int signal);
]]
local SIGINT = 2

local function number(name) return tonumber(os.getenv(name)) end

local connections = number("BENCH_CONNECTIONS")
local seconds = number("BENCH_SECONDS")
local updates = number("BENCH_UPDATES") -- 0: as many as fit into the seconds
local users = number("BENCH_USERS") -- 0: every update is the first one of a new user
local first = number("BENCH_FIRST_UPDATE")

local head = table.concat({
  "POST " .. os.getenv("BENCH_PATH") .. " HTTP/1.1",
  "Host: 127.0.0.1",
  "Content-Type: application/json",
  "X-Telegram-Bot-Api-Secret-Token: " .. os.getenv("BENCH_SECRET"),
  "Content-Length: ",
}, "\r\n")

local body = '{"update_id":%d,"message":{"message_id":%d,'
  .. '"from":{"id":%d,"is_bot":false,"first_name":"Ann","last_name":"Lee","username":"annlee%d","language_code":"en"},'
  .. '"chat":{"id":%d,"first_name":"Ann","last_name":"Lee","username":"annlee%d","type":"private"},'
  .. '"date":1781234567,"text":"hello there %d"}}'

local time = ffi.new("bench_time")
local function now()
  ffi.C.gettimeofday(time, nil)
  return tonumber(time.seconds) + tonumber(time.microseconds) / 1e6
end

math.randomseed(first)
sent, started, ended = -1, 0, 0 -- global, so that done() can read them
local resting = 0

function request()
  if sent <= 0 then started = now() end -- the very first call is wrk's look at what it is given: never sent
  if (updates > 0 and sent >= updates) or (seconds > 0 and now() - started >= seconds) then
    resting = resting + 1
    if resting == connections then
      ended = now()
      ffi.C.kill(ffi.C.getpid(), SIGINT)
    end
    return ""
  end
  sent = sent + 1
  local id = first + sent
  local user = 100000000 + (users > 0 and math.random(users) or id)
  local json = body:format(id, id, user, user, user, user, id)
  return head .. #json .. "\r\n\r\n" .. json
end

local threads = {}
function setup(thread) table.insert(threads, thread) end

function done(summary, latency)
  local thread, errors = threads[1], summary.errors
  io.write(string.format(
    'result {"sent":%d,"answered":%d,"seconds":%f,"p50":%f,"p99":%f,"refused":%d,"broken":%d}\n',
    thread:get("sent"), summary.requests, thread:get("ended") - thread:get("started"),
    latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout
  ))
end
