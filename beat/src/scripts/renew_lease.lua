-- Takes or renews the leader's lease.
--
-- KEYS: the lease. ARGV: instance, how far its clock is ahead of the server's in microseconds (empty: unknown), lifetime
-- in milliseconds. A lease that lasts longer is none of a beat.
-- Returns the holder as `instance ahead`, and the server's time in seconds and microseconds.
local holder = redis.call('GET', KEYS[1])
local mine = ARGV[1] .. ' ' .. ARGV[2]
local left = redis.call('PTTL', KEYS[1])
if not holder or string.match(holder, '^%S*') == ARGV[1] or left < 0 or left > tonumber(ARGV[3]) then
  redis.call('SET', KEYS[1], mine, 'PX', ARGV[3])
  holder = mine
end
local time = redis.call('TIME')
return { holder, time[1], time[2] }
