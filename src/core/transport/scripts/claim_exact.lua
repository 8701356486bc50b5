-- Takes one message, given by its bytes, off a list unless it is gone, and records it in `unacked` or sets it aside.
--
-- KEYS  list, then unacked and unacked_index, or the list of messages set aside alone
-- ARGV  message, then tag, now (Unix seconds) and record for `unacked`, or the entry for the other list
--
-- Redis does not undo a script that fails. So the message is recorded first, and that is undone if it was gone.
-- Returns 1 when the message was there.
local call = redis.call
local recorded = #KEYS == 3
if recorded then
  call('ZADD', KEYS[3], ARGV[3], ARGV[2])
  call('HSET', KEYS[2], ARGV[2], ARGV[4])
else
  call('LPUSH', KEYS[2], ARGV[2])
end
if call('LREM', KEYS[1], -1, ARGV[1]) > 0 then return 1 end
if recorded then
  call('HDEL', KEYS[2], ARGV[2])
  call('ZREM', KEYS[3], ARGV[2])
else
  call('LREM', KEYS[2], 1, ARGV[2])
end
return 0
