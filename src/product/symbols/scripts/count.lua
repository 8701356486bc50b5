-- Adds a batch to counters, only once even if the batch is sent again.
--
-- KEYS  number of the last batch of this process, counters
-- ARGV  number of the batch, seconds to remember it, amount to add to each counter
--
-- Returns what is unusable: a counter that holds no number is passed over.
if text(KEYS[1]) == ARGV[1] then return unusable end
for i = 2, #KEYS do
  if ARGV[i + 1] ~= '0' then attempt('INCRBY', KEYS[i], ARGV[i + 1]) end
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return unusable
