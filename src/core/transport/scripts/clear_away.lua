-- Removes the index entry of a delivery that has no record.
--
-- KEYS  unacked, unacked_index
-- ARGV  tag, the score with which the entry was found, or '' if the tag is never used again
--
-- kombu uses a tag again when it delivers the message again: with another score it is another delivery. Returns how many
-- entries were removed.
if ARGV[2] ~= '' and tonumber(redis.call('ZSCORE', KEYS[2], ARGV[1]) or '') ~= tonumber(ARGV[2]) then return 0 end
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return 0 end
return redis.call('ZREM', KEYS[2], ARGV[1])
