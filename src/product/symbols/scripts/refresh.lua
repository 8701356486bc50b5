-- Replaces a market's list: all keys or none.
--
-- KEYS  primary, last good, time of the refresh, source, success counter
-- ARGV  list, seconds to live of the primary (0 or less: for ever), time (JSON integer), source (JSON),
--       '1' when the list is sandbox data
--
-- Sandbox data never replaces a list that is not marked as sandbox data. The mark counts only for the list it
-- was written with: Python replaces a list and its time, and leaves the mark. Returns 1, or 0 when refused.
if ARGV[5] == '1' and redis.call('EXISTS', KEYS[1], KEYS[2]) > 0 then
  local refreshed, source = redis.call('GET', KEYS[3]) or '', redis.call('GET', KEYS[4]) or ''
  local marked = string.find(source, '"network": "sandbox"', 1, true)
  local current = string.find(source, '"fetched_at": ' .. refreshed .. ',', 1, true)
  if not (marked and current) then return 0 end
end
if tonumber(ARGV[2]) > 0 then
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[1])
end
redis.call('SET', KEYS[2], ARGV[1])
redis.call('SET', KEYS[3], ARGV[3])
redis.call('SET', KEYS[4], ARGV[4])
redis.call('INCRBY', KEYS[5], 1)
return 1
