-- Ends a beat: releases the lease if this beat holds it, and deletes the heartbeat.
--
-- KEYS: the lease, the heartbeat. ARGV: instance.
local holder = redis.call('GET', KEYS[1])
if holder and string.match(holder, '^%S*') == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return redis.call('DEL', KEYS[2])
