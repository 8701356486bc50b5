-- Releases a lease without a list.
--
-- KEYS  lock, failure, what is known of refreshes
-- ARGV  token, milliseconds until another reader may try (0: at once), reason, time
if text(KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
if tonumber(ARGV[2]) > 0 then
  redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[2])
  attempt('HSET', KEYS[3], 'failed_at', ARGV[4], 'failure', ARGV[3])
end
return 1
