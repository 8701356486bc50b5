-- Writes the list accepted last over lists of another program that were refused.
--
-- KEYS  primary, last-good, time of the refresh, accepted, refused
-- ARGV  SHA-1 of the refused primary and of the refused last-good list (each '' for none), SHA-1 of the accepted list,
--       its time (JSON integer), seconds that it has left (0: expired, -1: no expiry), why the lists were refused,
--       the time now, seconds to remember that, seconds within which the same list is refused once
--
-- A list that has been replaced since stays. Returns how many lists were refused lately, and what is unusable.
local accepted = text(KEYS[4])
if not accepted or redis.sha1hex(accepted) ~= ARGV[3] then return {0, unusable} end
local function holds(key, digest)
  if digest == '' then return false end
  local found = text(key)
  return found and redis.sha1hex(found) == digest
end
local primary, last_good = holds(KEYS[1], ARGV[1]), holds(KEYS[2], ARGV[2])
if not (primary or last_good) then return {0, unusable} end
if primary then
  if ARGV[5] == '0' then
    redis.call('DEL', KEYS[1])
  elseif ARGV[5] == '-1' then
    redis.call('SET', KEYS[1], accepted)
  else
    redis.call('SET', KEYS[1], accepted, 'EX', ARGV[5])
  end
end
if last_good then redis.call('SET', KEYS[2], accepted) end
redis.call('SET', KEYS[3], ARGV[4])
local digest = primary and ARGV[1] or ARGV[2]
local at, same = attempt('HGET', KEYS[5], 'at'), attempt('HGET', KEYS[5], 'sha1')
if at == nil then
  redis.call('DEL', KEYS[5])
  at, same = false, false
end
local times = tonumber(redis.call('HGET', KEYS[5], 'times') or '') or 0
local again = same == digest and (tonumber(at or '') or 0) + tonumber(ARGV[9]) >= tonumber(ARGV[7])
if not again then times = times + 1 end
redis.call('HSET', KEYS[5], 'at', ARGV[7], 'sha1', digest, 'why', ARGV[6], 'times', string.format('%d', times))
redis.call('EXPIRE', KEYS[5], ARGV[8])
return {times, unusable}
