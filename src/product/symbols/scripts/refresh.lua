-- Replaces a market's list: all keys or none.
--
-- KEYS  primary, last-good, time of the refresh, source, success counter,
--       fence, lock, held-back list, changes, symbols not trading, failure, all symbols, accepted list,
--       what is known of refreshes
-- ARGV  list, lifetime of the primary in seconds (0 or less: no expiry), time (JSON integer), source (JSON),
--       '1' if the list is sandbox data, '1' to count a success,
--       number of the lease (0: none), its token, SHA-1 of the last-good list that the change was computed from (or ''),
--       change (JSON, or ''), market, symbols not trading (JSON), maximum number of changes to keep,
--       the symbols of all quote assets and statuses (JSON)
--
-- Sandbox data replaces only sandbox data. The mark in the source counts only for the list whose SHA-1 it has, since
-- Python replaces a list but leaves the source. A write under an older lease than that of the current list
-- is dropped. A counter that holds no number is passed over, and other keys that hold something else are replaced.
-- Returns 'written', 'sandbox', 'changed' or 'superseded', and what is unusable.
local lease = tonumber(ARGV[7])
local before = text(KEYS[2])
if ARGV[5] == '1' and (before or redis.call('EXISTS', KEYS[1]) > 0) then
  local source, stored = text(KEYS[4]) or '', before or text(KEYS[1]) or ''
  local marked = string.find(source, '"network": "sandbox"', 1, true)
  local current = string.find(source, '"sha1": "' .. redis.sha1hex(stored) .. '"', 1, true)
  if not (marked and current) then return {'sandbox', unusable} end
end
local issued = lease_number(KEYS[6], 'issued')
local written = issued and lease_number(KEYS[6], 'written')
if not written then
  redis.call('DEL', KEYS[6])
  issued, written = 0, 0
end
-- A number that was never issued is not that of a list.
local superseded = before and lease > 0 and lease < written and written <= issued
if not superseded then
  local seen = before and redis.sha1hex(before) or ''
  if seen ~= ARGV[9] then return {'changed', unusable} end
end
if lease > 0 and text(KEYS[7]) == ARGV[8] then redis.call('DEL', KEYS[7]) end
if ARGV[6] == '1' then
  attempt('INCRBY', KEYS[5], 1)
  if not attempt('HSET', KEYS[14], 'warmed_at', ARGV[3]) then
    redis.call('DEL', KEYS[14])
    redis.call('HSET', KEYS[14], 'warmed_at', ARGV[3])
  end
end
if superseded then return {'superseded', unusable} end
if tonumber(ARGV[2]) > 0 then
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[1])
end
redis.call('SET', KEYS[2], ARGV[1])
redis.call('SET', KEYS[13], ARGV[1])
redis.call('SET', KEYS[3], ARGV[3])
redis.call('SET', KEYS[4], ARGV[4])
redis.call('SET', KEYS[12], ARGV[14])
redis.call('SET', KEYS[10], ARGV[12])
redis.call('DEL', KEYS[8], KEYS[11])
if lease > 0 then
  redis.call('HSET', KEYS[6], 'written', ARGV[7])
  -- After a FLUSHALL numbers start again, but leases from before it are still good.
  if issued < lease then redis.call('HSET', KEYS[6], 'issued', ARGV[7]) end
end
if ARGV[10] ~= '' then
  local function add()
    return attempt('XADD', KEYS[9], 'MAXLEN', ARGV[13], '*', 'market', ARGV[11], 'at', ARGV[3], 'change', ARGV[10])
  end
  if not add() then
    redis.call('DEL', KEYS[9])
    add()
  end
end
return {'written', unusable}
