-- Grants a refresh lease, if a refresh is needed and no other process is refreshing.
--
-- KEYS  lock, fence, primary, time of the last refresh, failure
-- ARGV  token, duration of the lease in milliseconds, requester ('warmup', 'reader' or 'fetched'), time of the last
--       refresh that the requester knows ('' for none)
--
-- A warm-up always refreshes; it takes the lock if it can, so that readers wait for it. A requester that has already
-- fetched a list ignores failures of other processes. Returns a word, a number and a text: 'granted' or 'unlocked' with
-- the lease's number, 'busy' with the milliseconds left of the other lease, 'newer', or 'failing' with the milliseconds
-- to wait and the reason.
local warmup = ARGV[3] == 'warmup'
if not warmup then
  if redis.call('EXISTS', KEYS[3]) > 0 and (redis.call('GET', KEYS[4]) or '') ~= ARGV[4] then
    return {'newer', 0, ''}
  end
  local failing = ARGV[3] == 'reader' and redis.call('PTTL', KEYS[5]) or 0
  if failing > 0 then return {'failing', failing, redis.call('GET', KEYS[5])} end
end
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  return {'granted', redis.call('HINCRBY', KEYS[2], 'issued', 1), ''}
end
if warmup then return {'unlocked', redis.call('HINCRBY', KEYS[2], 'issued', 1), ''} end
return {'busy', redis.call('PTTL', KEYS[1]), ''}
