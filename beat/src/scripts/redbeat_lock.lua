-- Takes or extends the lock that all RedBeat schedulers share.
--
-- KEYS: the lock. ARGV: token, lifetime in milliseconds. Returns 1 if we hold it.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
