-- Ends a chord: publishes what follows and removes the header's parts, in one step and once.
--
-- KEYS  the header's .j, .t, .s, .d, .c, then `unacked` if there is a delivery tag, then one list per message
-- ARGV  delivery tag or '' (not checked), name of the claim, 1 if the header has succeeded,
--       seconds for which a late copy of a part finds `done`, the messages
--
-- Only the holder of the delivery that completed the header may end it, while no other worker has the claim.
-- The parts of a failed header stay until they expire, as in Celery; without its size no worker joins them again.
--
-- Returns 1 if done, 0 if another worker ends it, -1 if nothing was done because a message leads to a key that is
-- no list.
local jkey, tkey, skey, dkey, ckey = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local before = 5
if ARGV[1] ~= '' then
  before = 6
  if redis.call('HEXISTS', KEYS[6], ARGV[1]) == 0 then return 0 end
end
local holder = redis.call('GET', ckey)
if holder and holder ~= ARGV[2] then return 0 end
if not holder and redis.call('EXISTS', skey) == 0 then return 0 end
for list = before + 1, #KEYS do
  local kind = redis.call('TYPE', KEYS[list]).ok
  if kind ~= 'list' and kind ~= 'none' then return -1 end
end
for list = before + 1, #KEYS do redis.call('LPUSH', KEYS[list], ARGV[4 + list - before]) end
redis.call('DEL', skey)
if ARGV[3] == '1' then redis.call('DEL', jkey, tkey, dkey) end
redis.call('SET', ckey, 'done', 'EX', ARGV[4])
return 1
