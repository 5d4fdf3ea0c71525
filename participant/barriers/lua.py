"""The barrier as a Lua script for Redis: the table of `participant.barrier` around the user's own Lua. Sans-IO.

Redis runs a script as a whole, but takes nothing back when it fails halfway. So this one remembers each key before the
first write to it (DUMP), and puts it back if the user's part raises an error or refuses. Redis itself says which
commands write, and which keys (COMMAND INFO, COMMAND GETKEYS). A write to a key that was not named is refused, because
in a cluster it would be elsewhere, and so is what neither reads nor writes, or writes into another database or server,
because it could not be taken back.

What is written goes into the append-only file as one unit, with the row of the branch.
"""

from __future__ import annotations

from participant.barrier import FINAL, RESULT_BYTES_MAX, RULES, State, StepKind, Verdict

__all__ = ["KEY_BYTES_MAX", "PROBE", "ROW_FIELDS", "script"]

KEY_BYTES_MAX = 1_048_576  # of a key that a step writes, as DUMP has it

ROW_FIELDS = ("state", "digest", "result", "end_digest", "end_result", "reason", "changed_at_ms")

_BARRIER = """
local CHANGES = {@changes@}
local FIRST = {@first@}
local FINAL = {@final@}
local FIELDS = {@fields@}
local RESULT_BYTES_MAX, KEY_BYTES_MAX = @result_bytes_max@, @key_bytes_max@

local row_key, kind, digest, at_ms, retention_ms, reason_chars_max = KEYS[1], unpack(ARGV, 1, 5)
local keys, args, is_named = {}, {}, {}
for i = 2, #KEYS do keys[i - 1] = KEYS[i]; is_named[KEYS[i]] = true end
for i = 6, #ARGV do args[i - 5] = ARGV[i] end

local function told(verdict)
  local found = redis.call('HMGET', row_key, unpack(FIELDS))
  return {verdict, unpack(found)}
end

local function record(state, result, reason)
  local own = FIRST[kind] and '' or 'end_'
  redis.call('HSET', row_key, 'state', state, own .. 'digest', digest, own .. 'result', result, 'reason', reason,
             'changed_at_ms', at_ms)
  if FINAL[state] then redis.call('PEXPIRE', row_key, retention_ms) else redis.call('PERSIST', row_key) end
end

local state = redis.call('HGET', row_key, 'state') or 'new'
local change = CHANGES[state .. ' ' .. kind]
if not change then return told('unchanged') end
local to, may_refuse, is_empty = change[1], change[2], change[3]
if is_empty then
  record(to, '', redis.call('HGET', row_key, 'reason') or '')
  return told('empty')
end

local before, classes = {}, {}

-- As much as can be; what went wrong with the last key that could not be put back.
local function undo()
  local problem
  for key, was in pairs(before) do
    local answer
    if was then
      answer = redis.pcall('RESTORE', key, was.ttl_ms, was.dump, 'REPLACE')
    else
      answer = redis.pcall('DEL', key)
    end
    if type(answer) == 'table' and answer.err then problem = key .. ': ' .. answer.err end
  end
  return problem
end

local function remember(key)
  if before[key] ~= nil then return end
  local dump = redis.call('DUMP', key)
  if not dump then before[key] = false return end
  if #dump > KEY_BYTES_MAX then
    error(key .. ' has ' .. #dump .. ' bytes, and could not be put back if it has more than ' .. KEY_BYTES_MAX, 0)
  end
  local ttl_ms = redis.call('PTTL', key)
  before[key] = {dump = dump, ttl_ms = ttl_ms < 0 and 0 or math.max(1, ttl_ms)}
end

local function flags_of(name)
  local found = redis.call('COMMAND', 'INFO', name)[1]
  local flags = {}
  for _, flag in ipairs(found and found[3] or {}) do flags[flag.ok or flag] = true end
  return flags
end

-- The word behind the name counts where the name alone says nothing: XGROUP CREATE writes.
local function class_of(name, first)
  local full = string.lower(name)
  classes[full] = classes[full] or flags_of(full)
  if classes[full].write then return 'write' end
  if classes[full].readonly then return 'read' end
  return first and class_of(full .. '|' .. string.lower(first)) or 'other'
end

-- Into another database, or another server: nothing remembers what was there.
local function leaves(name, ...)
  local full = string.lower(name)
  if full == 'move' or full == 'migrate' then return true end
  for i = 3, full == 'copy' and select('#', ...) or 0 do
    if string.lower(tostring((select(i, ...)))) == 'db' then return true end
  end
  return false
end

local function guarded(call)
  return function(name, ...)
    local class = class_of(name, ...)
    if class == 'other' then error(name .. ' neither reads nor writes keys, and could not be taken back', 0) end
    if class == 'write' then
      if leaves(name, ...) then error(name .. ' writes elsewhere, and could not be taken back', 0) end
      for _, key in ipairs(redis.call('COMMAND', 'GETKEYS', name, ...)) do
        if not is_named[key] then error(name .. ' writes ' .. key .. ', which is not among the keys of the step', 0) end
        remember(key)
      end
    end
    return call(name, ...)
  end
end

local function reject(reason) error({commitd_refused = tostring(reason)}, 0) end

local guard = {
  call = guarded(redis.call), pcall = guarded(redis.pcall), sha1hex = redis.sha1hex, log = redis.log,
  LOG_DEBUG = redis.LOG_DEBUG, LOG_VERBOSE = redis.LOG_VERBOSE, LOG_NOTICE = redis.LOG_NOTICE,
  LOG_WARNING = redis.LOG_WARNING, error_reply = redis.error_reply, status_reply = redis.status_reply,
}
local is_done, problem = pcall(function()
  local value = step(guard, keys, args, reject)
  local result = value == nil and '' or cmsgpack.pack(value)
  if #result > RESULT_BYTES_MAX then
    error('the result has ' .. #result .. ' bytes: at most ' .. RESULT_BYTES_MAX .. ' are kept for the repeats', 0)
  end
  record(to, result, '')
end)
if is_done then return told('run') end
local left = undo()
if left then
  pcall(record, 'running', '', '')  -- for good, so that no repeat does the other half
  return {'half undone', left}
end
local refusal = type(problem) == 'table' and problem.commitd_refused
if refusal and may_refuse then
  record('refused', '', string.sub(refusal, 1, reason_chars_max))
  return told('run')
end
if refusal then return {'must not refuse', refusal} end
return {'failed', type(problem) == 'table' and problem.err or tostring(problem)}
"""

# Whether a script may do to a key what the barrier does. It says what it may not, and leaves nothing.
PROBE = """
local key = KEYS[1]
local function try(command, ...)
  local answer = redis.pcall(command, ...)
  local problem = type(answer) == 'table' and answer.err
  return problem and command .. ': ' .. problem, answer
end
local problem = try('HSET', key, 'state', 'new') or try('HGET', key, 'state') or try('HMGET', key, 'state')
  or try('PTTL', key) or try('PEXPIRE', key, 1000) or try('PERSIST', key) or try('COMMAND', 'INFO', 'GET')
  or try('COMMAND', 'GETKEYS', 'GET', key)
if not problem then
  local dump
  problem, dump = try('DUMP', key)
  problem = problem or try('RESTORE', key, 0, dump, 'REPLACE')
end
return try('DEL', key) or problem or ''
"""


def script(body: str) -> str:
    """The whole script around the user's Lua, which sees `redis`, `KEYS`, `ARGV` and `reject`, and nothing of ours.

    Its keys are that of the row and the user's; its arguments the step's kind, its digest, the time, the retention, how
    long a reason may be, and the user's.
    """
    return f"local function step(redis, KEYS, ARGV, reject) {body}\nend\n{_FILLED}"  # its lines keep their numbers


_EMPTY = Verdict.EMPTY


def _filled() -> str:
    changes = (
        f"['{state} {kind}'] = {{'{rule.next[0]}', {_lua(State.REFUSED in rule.next)}, {_lua(rule.verdict is _EMPTY)}}}"
        for (state, kind), rule in RULES.items()
        if rule.verdict in (Verdict.RUN, Verdict.EMPTY)
    )
    text = _BARRIER
    for name, value in {
        "changes": ", ".join(changes),
        "first": ", ".join(f"['{kind}'] = true" for kind in StepKind if kind.is_first),
        "final": ", ".join(f"['{state}'] = true" for state in sorted(FINAL)),
        "fields": ", ".join(f"'{name}'" for name in ROW_FIELDS),
        "result_bytes_max": str(RESULT_BYTES_MAX),
        "key_bytes_max": str(KEY_BYTES_MAX),
    }.items():
        text = text.replace(f"@{name}@", value)
    return text


def _lua(flag: bool) -> str:
    return "true" if flag else "false"


_FILLED = _filled()
