-- Claims slots: for each, the record moves on and the message is pushed, or nothing happens.
--
-- KEYS: the hash of records, the set of paused entries, then one list per slot that has a message.
-- ARGV: per slot: entry, guard (`first`, `after`, or the last slot that this one replaces), slot, anchor, message
--       (empty: record the slot only).
-- Returns per slot `sent`, `passed`, `paused`, `taken RECORD` or `refused REASON`.
--
-- A record is `last anchor sent runs`, see `SlotRecord`. The script asks no clock.
--
-- Redis does not undo a script that fails. So the record moves before the message is pushed, and back if that is refused.
local answers, lists = {}, 2
local function refusal(answer)
  return type(answer) == 'table' and answer.err
end
for n = 1, #ARGV / 5 do
  local at = (n - 1) * 5
  local entry, guard, slot, anchor, message = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5]
  if message ~= '' then lists = lists + 1 end
  local record = redis.call('HGET', KEYS[1], entry)
  local last, old_anchor, sent, runs
  if record then
    last, old_anchor, sent, runs = string.match(record, '^(%-?%d+) (%-?%d+) (%-?%d+) (%d+)$')
    -- Longer numbers are of no record.
    if last and math.max(#last, #old_anchor, #sent, #runs) > 17 then
      last, sent, runs = nil, nil, nil
    end
  end
  local free
  if not last then
    free = true
  elseif guard == 'first' then
    free = false
  elseif guard == 'after' then
    free = tonumber(last) < tonumber(slot)
  else
    free = last == guard
  end
  local answer = 'passed'
  if not free then
    answer = 'taken ' .. record
  elseif message ~= '' then
    if redis.call('SISMEMBER', KEYS[2], entry) == 1 then
      answer = 'paused'
    else
      free = false
      local next_runs = string.format('%d', tonumber(runs or '0') + 1)
      -- Both fail if a key has a wrong type, or if Redis is out of memory.
      local refused = refusal(redis.pcall('HSET', KEYS[1], entry, slot .. ' ' .. anchor .. ' ' .. slot .. ' ' .. next_runs))
      if not refused then
        refused = refusal(redis.pcall('LPUSH', KEYS[lists], message))
        if refused and record then
          redis.call('HSET', KEYS[1], entry, record)
        elseif refused then
          redis.call('HDEL', KEYS[1], entry)
        end
      end
      answer = refused and 'refused ' .. refused or 'sent'
    end
  end
  if free then
    redis.call('HSET', KEYS[1], entry, slot .. ' ' .. anchor .. ' ' .. (sent or '-1') .. ' ' .. (runs or '0'))
  end
  answers[n] = answer
end
return answers
