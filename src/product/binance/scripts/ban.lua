-- Sets a pause, unless a longer one is set already that the exchange may have imposed.
--
-- KEYS  pause
-- ARGV  milliseconds, the longest pause of the exchange in milliseconds, the value
local left = redis.call('PTTL', KEYS[1])
if tonumber(ARGV[1]) > left or left > tonumber(ARGV[2]) then
  redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[1])
end
return 1
