-- Sends a slot of a RedBeat entry if the entry has not changed since it was read.
--
-- KEYS: the entry, the schedule, the queue's list. ARGV: `meta` as it was read (empty: none), `meta` after the run, the
-- next score, the message. Returns 1 if the message was pushed.
--
-- Redis does not undo a script that fails. So `meta` moves before the message is pushed, and back if that is refused.
local meta = redis.call('HGET', KEYS[1], 'meta')
if (meta or '') ~= ARGV[1] or redis.call('HEXISTS', KEYS[1], 'definition') == 0 then
  return 0
end
redis.call('HSET', KEYS[1], 'meta', ARGV[2])
local pushed = redis.pcall('LPUSH', KEYS[3], ARGV[4])
if type(pushed) == 'table' and pushed.err then
  if meta then
    redis.call('HSET', KEYS[1], 'meta', meta)
  else
    redis.call('HDEL', KEYS[1], 'meta')
  end
  return pushed
end
-- Without it the entry is read again, and its `meta` says when it is due.
redis.pcall('ZADD', KEYS[2], ARGV[3], KEYS[1])
return 1
