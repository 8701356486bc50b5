-- Ends deliveries: for each, stores the result, publishes what follows from it and acknowledges, in one step.
--
-- KEYS  unacked, unacked_index, then per delivery its result key, if it has a document, and one list per message to push
-- ARGV  per delivery: tag, result document or '', seconds the result is kept (0: for ever), number of messages
--       to push, and per message `L` (back of the queue) or `R` (front) and the message
--
-- Only the holder of a delivery publishes. Once its record is gone, another worker has restored the message and
-- publishes again. A final result is stored all the same, because it is true; a state on the way (RETRY) is
-- stored by the holder only.
--
-- Redis does not undo a script that fails half-way. So the script first checks what can fail (a push to a key that is
-- no list), tolerates a failing PUBLISH (it needs a separate permission), and deletes the record last. The index is
-- cleared for all deliveries at the end: an entry without a record has no meaning.
--
-- Returns per delivery 1 if it was still held, 0 if not, -1 if nothing was done because a push leads to a key that is
-- no list; and 1 if the result was stored, 2 if stored but not announced.
local unacked, find = KEYS[1], string.find

local function is_on_the_way(document)
  return find(document, '{"status": "RETRY"', 1, true) == 1
      or find(document, '{"status": "STARTED"', 1, true) == 1
end

-- Whether the delivery is held, or -1 if a push leads to a key that is no list. The lists come after `before` keys.
local function look(tag, before, pushes)
  if call('HEXISTS', unacked, tag) == 0 then return 0 end
  for push = 1, pushes do
    local kind = call('TYPE', KEYS[before + push]).ok
    if kind ~= 'list' and kind ~= 'none' then return -1 end
  end
  return 1
end

local outcome, settled, places = {}, {}, 0
local before, arg, last = 2, 1, #ARGV
while arg <= last do
  local tag, document, expires, pushes = ARGV[arg], ARGV[arg + 1], ARGV[arg + 2], tonumber(ARGV[arg + 3])
  arg = arg + 4
  local held, stored, result = 1, 0, nil
  if document ~= '' then
    before = before + 1
    result = KEYS[before]
  end
  -- A final result is stored whether the delivery is held or not.
  if pushes > 0 or document == '' or is_on_the_way(document) then
    held = look(tag, before, pushes)
    if held ~= 1 and (held == -1 or is_on_the_way(document)) then document = '' end
  end
  if document ~= '' then stored = store(result, document, expires) end
  for push = 1, pushes do
    if held == 1 then
      call(ARGV[arg] == 'R' and 'RPUSH' or 'LPUSH', KEYS[before + push], ARGV[arg + 1])
    end
    arg = arg + 2
  end
  if held ~= -1 then
    held = call('HDEL', unacked, tag)
    settled[#settled + 1] = tag
  end
  before = before + pushes
  outcome[places + 1], outcome[places + 2] = held, stored
  places = places + 2
end
if #settled > 0 then call('ZREM', KEYS[2], unpack(settled)) end
return outcome
