-- Takes one entry out of the parked messages and, unless the list is empty, publishes its message again.
-- KEYS  parked messages, list    ARGV  entry, message
-- Returns 1 when the entry was there.
-- Searched from the old end, where `parked` commands start.
if redis.call('LREM', KEYS[1], -1, ARGV[1]) == 0 then return 0 end
if KEYS[2] ~= '' then redis.call('LPUSH', KEYS[2], ARGV[2]) end
return 1
