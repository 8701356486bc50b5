-- Ends deliveries: for each, stores the result, publishes what follows from it and acknowledges. All in one
-- step, several deliveries at a time.
--
-- KEYS  unacked, unacked_index, then per delivery its result key and one list per message to push
-- ARGV  per delivery: tag, result document or '', seconds the result is kept (0: for ever), number of messages
--       to push, and per message `L` (back of the queue) or `R` (front) and the message
--
-- What follows is published only by the holder of a delivery. Once its record is gone, somebody restored the
-- message and will publish it again; a final result is stored all the same, because it is true. A stored
-- SUCCESS is never replaced, and a state on the way (RETRY) is stored by the holder only. Without a tag there is
-- no delivery, only a result to store.
--
-- A script that fails half-way is not undone. What can fail is therefore looked at before anything is written
-- (a push to a key that is no list), or allowed to (PUBLISH needs rights of its own), and the record goes last.
--
-- Returns per delivery 1 if it was still held, 0 if not, -1 if nothing was done because a push leads to a key
-- that is no list; and 1 if the result was stored, 2 if stored and not announced.
local function is_success(document)
  local ok, fields = pcall(cjson.decode, document)
  return ok and type(fields) == 'table' and fields.status == 'SUCCESS'
end

local function is_on_the_way(document)
  return string.find(document, '{"status": "RETRY"', 1, true) == 1
      or string.find(document, '{"status": "STARTED"', 1, true) == 1
end

local function store(key, document, expires)
  local old = redis.pcall('GET', key)
  if type(old) == 'string' and is_success(old) then return 0 end
  if expires > 0 then
    redis.call('SET', key, document, 'EX', expires)
  else
    redis.call('SET', key, document)
  end
  local announced = redis.pcall('PUBLISH', key, document)
  if type(announced) == 'table' then return 2 end
  return 1
end

local outcome = {}
local key, arg = 3, 1
while arg <= #ARGV do
  local tag, document, expires, pushes = ARGV[arg], ARGV[arg + 1], tonumber(ARGV[arg + 2]), tonumber(ARGV[arg + 3])
  local held = redis.call('HEXISTS', KEYS[1], tag)
  for push = 1, pushes do
    local kind = redis.call('TYPE', KEYS[key + push]).ok
    if held == 1 and kind ~= 'list' and kind ~= 'none' then held = -1 end
  end

  local stored = 0
  if document ~= '' and held ~= -1 and (held == 1 or tag == '' or not is_on_the_way(document)) then
    stored = store(KEYS[key], document, expires)
  end
  arg = arg + 4
  for push = 1, pushes do
    if held == 1 then
      redis.call(ARGV[arg] == 'R' and 'RPUSH' or 'LPUSH', KEYS[key + push], ARGV[arg + 1])
    end
    arg = arg + 2
  end
  if held ~= -1 then
    redis.call('HDEL', KEYS[1], tag)
    redis.call('ZREM', KEYS[2], tag)
  end
  key = key + 1 + pushes
  outcome[#outcome + 1] = held
  outcome[#outcome + 1] = stored
end
return outcome
