-- Ends a delivery: stores the result, publishes what follows from it and acknowledges, in one step.
--
-- KEYS  unacked, unacked_index, result key, then one list per message to push
-- ARGV  tag, result document or '', seconds the result is kept (0: for ever),
--       then per message `L` (back of the queue) or `R` (front) and the message
--
-- What follows is published only by the holder of the delivery. Once the record is gone, somebody restored
-- the message and will publish it again; the result is stored all the same, because it is true, and a
-- stored SUCCESS is never replaced.
--
-- Returns {1 if the delivery was still held, 1 if the result was stored}.
local held = redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])

local stored = 0
if ARGV[2] ~= '' then
  local old = redis.call('GET', KEYS[3])
  local final = false
  if old then
    local ok, document = pcall(cjson.decode, old)
    final = ok and type(document) == 'table' and document.status == 'SUCCESS'
  end
  if not final then
    if tonumber(ARGV[3]) > 0 then
      redis.call('SET', KEYS[3], ARGV[2], 'EX', ARGV[3])
    else
      redis.call('SET', KEYS[3], ARGV[2])
    end
    redis.call('PUBLISH', KEYS[3], ARGV[2])
    stored = 1
  end
end

if held == 1 then
  local list = 4
  for i = 4, #ARGV, 2 do
    redis.call(ARGV[i] == 'R' and 'RPUSH' or 'LPUSH', KEYS[list], ARGV[i + 1])
    list = list + 1
  end
end
return {held, stored}
