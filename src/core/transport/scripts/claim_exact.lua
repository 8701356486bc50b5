-- Takes one message, given by its bytes, off a list and records it in `unacked`, unless it is gone. With an empty record the message is moved to another list instead (set aside with its reason).
--
-- KEYS  unacked, unacked_index, list, list of messages set aside
-- ARGV  message, tag, now (Unix seconds), record for `unacked` or '', entry for the other list or ''
-- Returns 1 when the message was there.
if redis.call('LREM', KEYS[3], -1, ARGV[1]) == 0 then return 0 end
if ARGV[4] ~= '' then
  redis.call('HSET', KEYS[1], ARGV[2], ARGV[4])
  redis.call('ZADD', KEYS[2], ARGV[3], ARGV[2])
else
  redis.call('LPUSH', KEYS[4], ARGV[5])
end
return 1
