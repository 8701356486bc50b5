-- Adds members to a chord, once for each try of the task that adds them.
--
-- KEYS  the header's .t, and what this try of the task has added to it
-- ARGV  number of members that it adds, seconds that the keys are kept (0: for ever)
local before = tonumber(redis.call('GET', KEYS[2]) or '') or 0
redis.call('INCRBY', KEYS[1], tonumber(ARGV[1]) - before)
redis.call('SET', KEYS[2], ARGV[1])
if ARGV[2] ~= '0' then
  for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[2]) end
end
