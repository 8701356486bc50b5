-- Restores deliveries whose holder is gone, in this order. One step does it all, so that a death is counted once, and only
-- if the message is restored.
--
-- KEYS  unacked, unacked_index; if crashes are counted, the hash of crashes and the set of started deliveries; then the list
--       of each delivery that has a record
-- ARGV  1 if crashes are counted, seconds for which they are remembered;
--       per delivery: tag, the score with which it was found ('': its tag is its own for ever), message ('': it has no
--       record), its field in the hash of crashes, crashes from which on a message waits before it starts (0: this one does
--       in any case) and is only counted if it is among the started ones
--
-- kombu uses a tag again when it delivers the message again. With another score it is another delivery.
--
-- Returns per delivery 0 if it is gone or is another one now, 1 if it was restored, and -1 if nothing was done because its
-- list is no list. Redis does not undo a script, so it first checks what can fail, and pushes the message before it deletes
-- the record.
local call = redis.call
local unacked, index = KEYS[1], KEYS[2]
local is_counted, seconds = ARGV[1] == '1', ARGV[2]
local list_number = is_counted and 4 or 2

local function restore(tag, score, message, field, waits_from)
  local list
  if message ~= '' then
    list_number = list_number + 1
    list = KEYS[list_number]
  end
  if score ~= '' and tonumber(call('ZSCORE', index, tag) or '') ~= tonumber(score) then return 0 end
  if call('HEXISTS', unacked, tag) == 0 then
    call('ZREM', index, tag)
    return 0
  end
  if not list then return 0 end
  local kind = call('TYPE', list).ok
  if kind ~= 'list' and kind ~= 'none' then return -1 end
  if is_counted then
    local crashes = tonumber(call('HGET', KEYS[3], field) or 0)
    if crashes < tonumber(waits_from) or call('SISMEMBER', KEYS[4], tag) == 1 then
      call('HINCRBY', KEYS[3], field, 1)
      call('EXPIRE', KEYS[3], seconds)
    end
  end
  call('RPUSH', list, message)
  call('HDEL', unacked, tag)
  call('ZREM', index, tag)
  return 1
end

local outcomes = {}
for argument = 3, #ARGV, 5 do
  outcomes[#outcomes + 1] = restore(ARGV[argument], ARGV[argument + 1], ARGV[argument + 2], ARGV[argument + 3],
    ARGV[argument + 4])
end
return outcomes
