-- Grants a refresh lease, if a refresh is needed and no other process is refreshing.
--
-- KEYS  lock, fence, primary, time of the last refresh, failure
-- ARGV  token, duration of the lease in milliseconds, requester ('warmup', 'reader', 'fetched' or 'kept'), time of the last
--       refresh that the requester knows ('' for none), the longest time in milliseconds that a failure counts
--
-- A warm-up always refreshes; it takes the lock if it can, so that readers wait for it. A requester that has already
-- fetched a list ignores failures of other processes. One that keeps its list, because the one in Redis was refused,
-- ignores the time of the refresh. A lock that lasts for more than two leases, or a failure that lasts
-- too long, is made up.
-- Returns a word, a number, a text and what is unusable: 'granted' or 'unlocked' with the lease's number, 'busy' with the
-- milliseconds left of the other lease, 'newer', or 'failing' with the milliseconds to wait and the reason.
local warmup = ARGV[3] == 'warmup'
if not warmup then
  if ARGV[3] ~= 'kept' and redis.call('EXISTS', KEYS[3]) > 0 and (text(KEYS[4]) or '') ~= ARGV[4] then
    return {'newer', 0, '', unusable}
  end
  local failing = ARGV[3] ~= 'fetched' and redis.call('PTTL', KEYS[5]) or 0
  if failing > 0 then
    local reason = text(KEYS[5])
    if reason and failing <= tonumber(ARGV[5]) then return {'failing', failing, reason, unusable} end
  end
end
local left = redis.call('PTTL', KEYS[1])
local locked = left >= 0 and left <= 2 * tonumber(ARGV[2])
if locked and not warmup then return {'busy', left, '', unusable} end
if not locked then
  if left ~= -2 then note(KEYS[1], 'it expires too late for a lock') end
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
local issued = lease_number(KEYS[2], 'issued')
local written = issued and lease_number(KEYS[2], 'written')
if not written then
  redis.call('DEL', KEYS[2])
  issued, written = 0, 0
end
local number = math.max(issued, written) + 1
redis.call('HSET', KEYS[2], 'issued', string.format('%d', number))
return {locked and 'unlocked' or 'granted', number, '', unusable}
