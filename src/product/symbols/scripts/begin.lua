-- Begins a refresh, if there is need and nobody else is at it.
--
-- KEYS  lock, fence, primary, time of the refresh, failure
-- ARGV  token, milliseconds of the lease, who asks ('warmup', 'reader' or 'fetched'), time of the refresh that is known
--       ('' for none)
--
-- A warm-up refreshes in any case; it takes the lock if it can, so that readers wait for it. Who has fetched a list
-- already does not care that others fail to. Returns a word and a number: 'granted' and the lease's, 'unlocked' and the
-- lease's, 'busy' and how many milliseconds the other lease has, 'newer', or 'failing' with milliseconds and the reason.
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
