-- Makes the list of another program the one accepted last, if both places hold it.
--
-- KEYS  primary, last-good, accepted, source
-- ARGV  SHA-1 of the list, SHA-1 of the list accepted before, source (JSON)
--
-- Returns what is unusable.
local list, last_good, accepted = text(KEYS[1]), text(KEYS[2]), text(KEYS[3])
if list and list == last_good and redis.sha1hex(list) == ARGV[1] and accepted and redis.sha1hex(accepted) == ARGV[2] then
  redis.call('SET', KEYS[3], list)
  redis.call('SET', KEYS[4], ARGV[3])
end
return unusable
