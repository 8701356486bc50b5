-- Sends a slot of a RedBeat entry if the entry has not changed since it was read.
--
-- KEYS: the entry, the schedule, the queue's list. ARGV: `meta` as it was read (empty: none), `meta` after the run, the
-- next score, the message. Returns 1 if the message was pushed.
if (redis.call('HGET', KEYS[1], 'meta') or '') ~= ARGV[1] or redis.call('HEXISTS', KEYS[1], 'definition') == 0 then
  return 0
end
redis.call('LPUSH', KEYS[3], ARGV[4])
redis.call('HSET', KEYS[1], 'meta', ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[3], KEYS[1])
return 1
