-- Replaces a market's list: all keys or none.
--
-- KEYS  primary, last good, time of the refresh, source, success counter,
--       fence, lock, list held back, changes, symbols not trading, failure, everything
-- ARGV  list, seconds to live of the primary (0 or less: for ever), time (JSON integer), source (JSON),
--       '1' when the list is sandbox data, '1' when the success is counted,
--       number of the lease (0: none), its token, SHA-1 of the last good list that the change was computed from (or ''),
--       change (JSON, or ''), market, symbols not trading (JSON), most changes to keep,
--       the symbols of all quote assets and statuses (JSON)
--
-- Sandbox data never replaces a list that is not marked as sandbox data. The mark counts only for the list it
-- was written with: Python replaces a list and its time, and leaves the mark. A lease that is older than that of the
-- list in place is too late: what is there is newer. Returns what became of it.
local lease = tonumber(ARGV[7])
local before = redis.call('GET', KEYS[2])
if ARGV[5] == '1' and (before or redis.call('EXISTS', KEYS[1]) > 0) then
  local refreshed, source = redis.call('GET', KEYS[3]) or '', redis.call('GET', KEYS[4]) or ''
  local marked = string.find(source, '"network": "sandbox"', 1, true)
  local current = string.find(source, '"fetched_at": ' .. refreshed .. ',', 1, true)
  if not (marked and current) then return 'sandbox' end
end
local written = tonumber(redis.call('HGET', KEYS[6], 'written') or '0')
local superseded = lease > 0 and lease < written
if not superseded then
  local seen = before and redis.sha1hex(before) or ''
  if seen ~= ARGV[9] then return 'changed' end
end
if lease > 0 and redis.call('GET', KEYS[7]) == ARGV[8] then redis.call('DEL', KEYS[7]) end
if ARGV[6] == '1' then redis.call('INCRBY', KEYS[5], 1) end
if superseded then return 'superseded' end
if tonumber(ARGV[2]) > 0 then
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[1])
end
redis.call('SET', KEYS[2], ARGV[1])
redis.call('SET', KEYS[3], ARGV[3])
redis.call('SET', KEYS[4], ARGV[4])
redis.call('SET', KEYS[12], ARGV[14])
redis.call('SET', KEYS[10], ARGV[12])
redis.call('DEL', KEYS[8], KEYS[11])
if lease > 0 then
  redis.call('HSET', KEYS[6], 'written', lease)
  -- After a flush the count begins anew, and a lease from before it is still good.
  if tonumber(redis.call('HGET', KEYS[6], 'issued') or '0') < lease then
    redis.call('HSET', KEYS[6], 'issued', lease)
  end
end
if ARGV[10] ~= '' then
  redis.call('XADD', KEYS[9], 'MAXLEN', ARGV[13], '*', 'market', ARGV[11], 'at', ARGV[3], 'change', ARGV[10])
end
return 'written'
