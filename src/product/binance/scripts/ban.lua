-- Sets a pause, unless a longer one is set already.
--
-- KEYS  pause
-- ARGV  milliseconds
if tonumber(ARGV[1]) > redis.call('PTTL', KEYS[1]) then
  redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
end
return 1
