-- Takes up to `want` messages of known tasks off the queues and records each in `unacked` in the same step.
--
-- KEYS  unacked, unacked_index, then the lists to serve in order
-- ARGV  want, window, number of elements to skip at the served end, now (Unix seconds), tag prefix,
--       1 to leave messages whose `eta` is to come (else 0), number of names, the names of the tasks this worker
--       runs,
--       one routing suffix per list: the end of the stored triple, `, "", "queue"]`,
--       then texts that occur in messages which must be left to others
--
-- A message of another task is not moved: the ones behind it are found by looking further, at most `window`
-- elements from the end that is served first. Where the text alone does not tell whose a message is
-- (protocol 1, escaped names, names in other places) it is reported and not moved either.
--
-- Returns how many messages were taken off each list; those messages, of which the n-th has the tag
-- `prefix .. n`; {list number, message, ...} of the unclear ones; {foreign task, count, ...}; 1 if a list goes on
-- beyond the window; and the number of messages left for their `eta`.
local find, sub, call = string.find, string.sub, redis.call
local want, window, skip = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now, prefix = ARGV[4], ARGV[5]
local leave_etas = ARGV[6] == '1'
local name_count = tonumber(ARGV[7])
local names, known = {}, {}
for i = 1, name_count do
  local name = ARGV[7 + i]
  names[i] = name
  known[name] = true
end
local suffixes = 7 + name_count
local list_count = #KEYS - 2
local first_left_out, last_left_out = suffixes + list_count + 1, #ARGV

local function is_left_out(raw)
  for i = first_left_out, last_left_out do
    if find(raw, ARGV[i], 1, true) then return true end
  end
  return false
end

-- Inside a JSON text every quote is escaped, so `"task": "` can only begin a real member, and the next quote
-- ends its value unless a backslash stands before it. Plain searches: patterns cost the server ten times as much.
local function task_of(raw)
  local _, open = find(raw, '"task": "', 1, true)
  if not open then
    _, open = find(raw, '"task":"', 1, true)
    if not open then return nil end
  end
  local close = find(raw, '"', open + 1, true)
  if not close then return nil end
  return sub(raw, open + 1, close - 1)
end

-- Whether the `"task"` that was found is a member of the message's `headers`: no object begins before them, and none
-- begins or ends in them before the task.
local function is_header(raw)
  local start, open = find(raw, '"headers": {', 1, true)
  if not open then
    start, open = find(raw, '"headers":{', 1, true)
    if not open then return false end
  end
  local task, inner, close = find(raw, '"task":', 1, true), find(raw, '{', open + 1, true), find(raw, '}', open + 1, true)
  local outer, tight = find(raw, '": {', 1, true), find(raw, '":{', 1, true)
  return task > open and (not inner or task < inner) and (not close or task < close)
      and (not outer or outer >= start) and (not tight or tight >= start)
end

-- Days from 1970 to a date, years beginning in March.
local function days(year, month, day)
  if month <= 2 then year, month = year - 1, month + 12 end
  local leaps = math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400)
  return year * 365 + leaps + math.floor((153 * (month - 3) + 2) / 5) + day - 719469
end

-- Whether a message has an `eta` that is to come. One in an unusual spelling has none: it is claimed and waits.
local function is_later(raw)
  local _, open = find(raw, '"eta": "', 1, true)
  if not open then
    _, open = find(raw, '"eta":"', 1, true)
    if not open then return false end
  end
  local year, month, day, hour, minute, second, offset = string.match(sub(raw, open + 1, open + 40),
    '^(%d%d%d%d)%-(%d%d)%-(%d%d)[T ](%d%d):(%d%d):(%d%d)%.?%d*([^"]*)"')
  if not year then return false end
  local ahead = 0
  if offset ~= '' and offset ~= 'Z' then
    local sign, hours, minutes = string.match(offset, '^([+-])(%d%d):?(%d%d)$')
    if not sign then return false end
    ahead = (hours * 3600 + minutes * 60) * (sign == '-' and -1 or 1)
  end
  local eta = days(tonumber(year), tonumber(month), tonumber(day)) * 86400 + hour * 3600 + minute * 60 + second
  return eta - ahead > tonumber(now)
end

-- Whose a message is that is not plainly ours.
local function verdict(raw, found)
  if is_left_out(raw) then return 'foreign', found or '?' end
  if not found or find(found, '\\', 1, true) then return 'unclear' end
  for i = 1, name_count do
    if find(raw, '"' .. names[i] .. '"', 1, true) then return 'unclear' end
  end
  return 'foreign', found
end

local taken, messages, records, scores, count = {}, {}, {}, {}, 0

-- Records what is about to be taken off a list. Redis does not undo a script that fails, so this comes first, and the
-- index before the hash: an entry without a record has no meaning.
local function record()
  if #records == 0 then return end
  call('ZADD', KEYS[2], unpack(scores))
  call('HSET', KEYS[1], unpack(records))
  records, scores = {}, {}
end
local unclear, foreign, more, later = {}, {}, 0, 0

for list = 1, list_count do
  local key, suffix, before = KEYS[list + 2], ARGV[suffixes + list], count
  local kept, scanned = skip, 0
  -- Elements of ours at the very end of the list are counted and popped together.
  local at_end = 0
  local chunk = want - count
  while count < want and scanned < window do
    local batch = call('LRANGE', key, -(kept + at_end + chunk), -(kept + at_end + 1))
    local size = #batch
    if size == 0 then break end
    scanned = scanned + size
    for i = size, 1, -1 do
      local raw = batch[i]
      local task = task_of(raw)
      local waits = leave_etas and known[task] and is_header(raw) and is_later(raw)
      if waits then
        kept = kept + 1
        later = later + 1
      elseif count < want and known[task] and is_header(raw) and not is_left_out(raw) then
        count = count + 1
        local tag, pair = prefix .. count, #records + 1
        messages[count] = raw
        records[pair] = tag
        records[pair + 1] = '[' .. raw .. suffix
        scores[pair] = now
        scores[pair + 1] = tag
        if kept == 0 then
          at_end = at_end + 1
        else
          record()
          if at_end > 0 then
            call('LTRIM', key, 0, -(at_end + 1))
            at_end = 0
          end
          call('LREM', key, -1, raw)
        end
      else
        kept = kept + 1
        local whose, name = verdict(raw, task)
        if whose == 'foreign' then
          foreign[name] = (foreign[name] or 0) + 1
        elseif whose == 'unclear' and #unclear < 32 then
          unclear[#unclear + 1] = list
          unclear[#unclear + 1] = raw
        end
      end
    end
    chunk = 64
  end
  if at_end > 0 then
    record()
    call('LTRIM', key, 0, -(at_end + 1))
  end
  taken[list] = count - before
  if scanned >= window and call('LLEN', key) > kept then more = 1 end
end

local waiting = {}
for task, number in pairs(foreign) do
  if #waiting < 64 then
    waiting[#waiting + 1] = task
    waiting[#waiting + 1] = number
  end
end
return {taken, messages, unclear, waiting, more, later}
