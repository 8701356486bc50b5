-- Counts one result of a chord's header, and gives the chord to the worker that completes it.
--
-- KEYS  the header's .j, .t, .s, .d, .c, and its saved result
-- ARGV  task id, part, beginning of every part of this task, place in the header or `+inf`, seconds that the
--       keys are kept (0: for ever), name of the claim, seconds that a claim lasts
--
-- The keys are Celery's: parts in .j (a sorted set, or a list with `result_chord_ordered` off), the size in .s,
-- tasks added later in .t. Celery 5.7 also keeps the parts it has counted in .d, and in .c who publishes the
-- body, or `done`. Releases before know only the first three: a part that one of them has counted is recognised
-- in .j itself. A task that runs twice counts once, and its first result stays.
--
-- A claim is named after the part that completed the header, so that the task of a worker that died with it can
-- take it over when it is run again.
--
-- Keys of another type break the chord: then its body fails, which the caller has claimed.
--
-- Returns {'waiting'}, {'done'}, {'held', milliseconds}, {'broken'} or {'complete', saved result, parts}.
local jkey, tkey, skey, dkey, ckey, saved = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local tid, part, beginning, place, expires, claim = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6]

local function holds(key, kind, other)
  local found = redis.call('TYPE', key).ok
  return found == kind or found == 'none' or found == other
end

if redis.pcall('GET', ckey) == 'done' then return {'done'} end
if not (holds(jkey, 'zset', 'list') and holds(dkey, 'set') and holds(skey, 'string') and holds(tkey, 'string')
    and holds(ckey, 'string') and holds(saved, 'string')) then
  local holder = redis.pcall('GET', ckey)
  if type(holder) == 'string' and holder ~= claim then return {'held', redis.call('PTTL', ckey)} end
  redis.call('SET', ckey, claim, 'EX', ARGV[7])
  return {'broken'}
end
local ordered = redis.call('TYPE', jkey).ok ~= 'list'

local member = tid .. ':' .. place
if redis.call('SISMEMBER', dkey, member) == 0 then
  local there = false
  local others = ordered and redis.call('ZRANGEBYSCORE', jkey, place, place) or redis.call('LRANGE', jkey, 0, -1)
  for _, other in ipairs(others) do
    if string.sub(other, 1, #beginning) == beginning then there = true end
  end
  if not there and ordered then
    redis.call('ZADD', jkey, place, part)
  elseif not there then
    redis.call('RPUSH', jkey, part)
  end
  redis.call('SADD', dkey, member)
end
if expires > 0 then
  for _, key in ipairs({jkey, tkey, skey, dkey}) do redis.call('EXPIRE', key, expires) end
end

local count = ordered and redis.call('ZCARD', jkey) or redis.call('LLEN', jkey)
local size = tonumber(redis.call('GET', skey) or '')
local added = tonumber(redis.call('GET', tkey) or '') or 0
if not size or count ~= size + added then return {'waiting'} end
local holder = redis.call('GET', ckey)
if holder and holder ~= claim then return {'held', redis.call('PTTL', ckey)} end
redis.call('SET', ckey, claim, 'EX', ARGV[7])
local parts = ordered and redis.call('ZRANGE', jkey, 0, -1) or redis.call('LRANGE', jkey, 0, -1)
return {'complete', redis.call('GET', saved) or '', parts}
