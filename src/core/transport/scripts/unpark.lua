-- Takes one entry out of the parked messages and, given a list, publishes its message again.
-- KEYS  parked messages, list    ARGV  entry, message
-- Redis does not undo a script that fails. So the message is published first, and that is undone if the entry was gone.
-- Returns 1 when the entry was there.
if KEYS[2] then redis.call('LPUSH', KEYS[2], ARGV[2]) end
-- Searched from the old end, where `parked` commands start.
if redis.call('LREM', KEYS[1], -1, ARGV[1]) > 0 then return 1 end
if KEYS[2] then redis.call('LREM', KEYS[2], 1, ARGV[2]) end
return 0
