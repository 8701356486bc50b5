-- Restores a delivery whose holder is gone. One step does it all, so that a death is counted once, and only if the
-- message is restored.
--
-- KEYS  unacked, unacked_index, list, and where the death of a worker is counted: hash of crashes, set of started deliveries
-- ARGV  tag, message, its field in the hash of crashes, seconds for which crashes are remembered, crashes from which on a
--       message waits before it starts (0: this one does in any case) and is only counted if it is among the started ones,
--       the score with which the delivery was found, or '' if its tag is its own for ever
--
-- kombu uses a tag again when it delivers the message again. With another score it is another delivery.
--
-- Returns 0 if the delivery is gone or is another one now, 1 if it was restored, and -1 if nothing was done because its
-- list is no list. Redis does not undo a script, so it first checks what can fail, and pushes the message before it deletes
-- the record.
if ARGV[6] ~= '' and tonumber(redis.call('ZSCORE', KEYS[2], ARGV[1]) or '') ~= tonumber(ARGV[6]) then return 0 end
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return 0
end
local kind = redis.call('TYPE', KEYS[3]).ok
if kind ~= 'list' and kind ~= 'none' then return -1 end
local crashes = KEYS[4] and tonumber(redis.call('HGET', KEYS[4], ARGV[3]) or 0)
if crashes and (crashes < tonumber(ARGV[5]) or redis.call('SISMEMBER', KEYS[5], ARGV[1]) == 1) then
  redis.call('HINCRBY', KEYS[4], ARGV[3], 1)
  redis.call('EXPIRE', KEYS[4], ARGV[4])
end
redis.call('RPUSH', KEYS[3], ARGV[2])
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
