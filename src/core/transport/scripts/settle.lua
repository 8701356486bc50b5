-- Ends a delivery: stores the result, publishes what follows from it and acknowledges, in one step.
--
-- KEYS  unacked, unacked_index, key of the result, and one list per message to push
-- ARGV  tag, result document or '', seconds the result is kept (0: for ever), and per message to push `L` (back of
--       the queue) or `R` (front) and the message
--
-- Only the holder of a delivery publishes. Once its record is gone, another worker has restored the message and
-- publishes again. A final result is stored all the same, because it is true; a state on the way (RETRY) is
-- stored by the holder only.
--
-- Redis does not undo a script that fails half-way. So the script first checks what can fail (a push to a key that is
-- no list), tolerates a failing PUBLISH (it needs a separate permission), and deletes the record last.
--
-- Returns 1 if the delivery was still held, 0 if not, -1 if nothing was done because a push leads to a key that is
-- no list; and 1 if the result was stored, 2 if stored but not announced.
local unacked, tag, document, find = KEYS[1], ARGV[1], ARGV[2], string.find

local function look()
  if call('HEXISTS', unacked, tag) == 0 then return 0 end
  for push = 4, #KEYS do
    local kind = call('TYPE', KEYS[push]).ok
    if kind ~= 'list' and kind ~= 'none' then return -1 end
  end
  return 1
end

local on_the_way = find(document, '{"status": "RETRY"', 1, true) == 1
    or find(document, '{"status": "STARTED"', 1, true) == 1
local held, stored = 1, 0
if #KEYS > 3 or document == '' or on_the_way then
  held = look()
  if held == -1 then return {-1, 0} end
  if held == 0 and on_the_way then document = '' end
end
if document ~= '' then stored = store(KEYS[3], document, ARGV[3]) end
if held == 1 then
  for push = 4, #KEYS do
    local arg = 2 * push - 4
    call(ARGV[arg] == 'R' and 'RPUSH' or 'LPUSH', KEYS[push], ARGV[arg + 1])
  end
end
held = call('HDEL', unacked, tag)
call('ZREM', KEYS[2], tag)
return {held, stored}
