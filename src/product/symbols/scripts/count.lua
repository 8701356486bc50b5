-- Adds to counters once, however often it is asked to.
--
-- KEYS  number of the last batch of this process, counters
-- ARGV  number of the batch, seconds for which it is remembered, what to add to each counter
if redis.call('GET', KEYS[1]) == ARGV[1] then return 0 end
for i = 2, #KEYS do
  if ARGV[i + 1] ~= '0' then redis.call('INCRBY', KEYS[i], ARGV[i + 1]) end
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
