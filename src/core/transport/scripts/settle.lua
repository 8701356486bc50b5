-- Ends deliveries: for each, stores the result, publishes what follows from it and acknowledges. All in one
-- step, several deliveries at a time.
--
-- KEYS  unacked, unacked_index, then per delivery its result key and one list per message to push
-- ARGV  per delivery: tag, result document or '', seconds the result is kept (0: for ever), number of messages
--       to push, and per message `L` (back of the queue) or `R` (front) and the message
--
-- What follows is published only by the holder of a delivery. Once its record is gone, somebody restored the
-- message and will publish it again; the result is stored all the same, because it is true, and a stored
-- SUCCESS is never replaced.
--
-- Returns per delivery 1 if it was still held and 1 if the result was stored.
local function is_success(document)
  local ok, fields = pcall(cjson.decode, document)
  return ok and type(fields) == 'table' and fields.status == 'SUCCESS'
end

local outcome = {}
local key, arg = 3, 1
while arg <= #ARGV do
  local tag, document, expires, pushes = ARGV[arg], ARGV[arg + 1], tonumber(ARGV[arg + 2]), tonumber(ARGV[arg + 3])
  local held = redis.call('HDEL', KEYS[1], tag)
  redis.call('ZREM', KEYS[2], tag)

  local stored = 0
  if document ~= '' then
    local old = redis.call('GET', KEYS[key])
    if not old or not is_success(old) then
      if expires > 0 then
        redis.call('SET', KEYS[key], document, 'EX', expires)
      else
        redis.call('SET', KEYS[key], document)
      end
      redis.call('PUBLISH', KEYS[key], document)
      stored = 1
    end
  end

  arg = arg + 4
  for push = 1, pushes do
    if held == 1 then
      redis.call(ARGV[arg] == 'R' and 'RPUSH' or 'LPUSH', KEYS[key + push], ARGV[arg + 1])
    end
    arg = arg + 2
  end
  key = key + 1 + pushes
  outcome[#outcome + 1] = held
  outcome[#outcome + 1] = stored
end
return outcome
