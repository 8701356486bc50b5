-- Takes up to `want` messages of known tasks off the queues and records each in `unacked` in the same step.
--
-- KEYS  unacked, unacked_index, then the lists to serve in order
-- ARGV  want, window, number of elements to skip at the served end, now (Unix seconds), tag prefix,
--       number of names, the names of the tasks this worker runs,
--       one routing suffix per list: the end of the stored triple, `, "", "queue"]`,
--       then texts that occur in messages which must be left to others
--
-- A message of another task is not moved: the ones behind it are found by looking further, at most `window`
-- elements from the end that is served first. Where the text alone does not tell whose a message is
-- (protocol 1, escaped names) it is reported and not moved either.
--
-- Returns {tag, list number, message, ...}, {list number, message, ...}, {foreign task, count, ...}, and 1 if
-- a list goes on beyond the window.
local want, window, skip = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now, prefix = ARGV[4], ARGV[5]
local name_count = tonumber(ARGV[6])
local names, known = {}, {}
for i = 7, 6 + name_count do
  names[#names + 1] = ARGV[i]
  known[ARGV[i]] = true
end
local suffixes = 6 + name_count
local list_count = #KEYS - 2
local first_left_out = suffixes + list_count + 1

local function is_left_out(raw)
  for i = first_left_out, #ARGV do
    if string.find(raw, ARGV[i], 1, true) then return true end
  end
  return false
end

-- Inside a JSON text every quote is escaped, so `"task": "` can only begin a real member, and the next quote
-- ends its value unless a backslash stands before it. Plain searches: patterns cost the server ten times as much.
local function task_of(raw)
  local _, open = string.find(raw, '"task": "', 1, true)
  if not open then
    _, open = string.find(raw, '"task":"', 1, true)
    if not open then return nil end
  end
  local close = string.find(raw, '"', open + 1, true)
  if not close then return nil end
  return string.sub(raw, open + 1, close - 1)
end

local function verdict(raw)
  local found = task_of(raw)
  if found and known[found] then
    if is_left_out(raw) then return 'foreign', found end
    return 'ours'
  end
  if not found or string.find(found, '\\', 1, true) then
    if is_left_out(raw) then return 'foreign', '?' end
    return 'unclear'
  end
  for _, name in ipairs(names) do
    if string.find(raw, '"' .. name .. '"', 1, true) then
      if is_left_out(raw) then return 'foreign', found end
      return 'unclear'
    end
  end
  return 'foreign', found
end

local claimed, unclear, foreign, count, more = {}, {}, {}, 0, 0
local records, scores = {}, {}

for list = 1, list_count do
  local key = KEYS[list + 2]
  local kept, scanned = skip, 0
  -- Elements of ours at the very end of the list are counted and popped together.
  local at_end = 0
  local chunk = want - count
  while count < want and scanned < window do
    local batch = redis.call('LRANGE', key, -(kept + at_end + chunk), -(kept + at_end + 1))
    if #batch == 0 then break end
    for i = #batch, 1, -1 do
      local raw = batch[i]
      scanned = scanned + 1
      local whose, task = verdict(raw)
      if whose == 'ours' and count < want then
        if kept == 0 then
          at_end = at_end + 1
        else
          if at_end > 0 then
            redis.call('LTRIM', key, 0, -(at_end + 1))
            at_end = 0
          end
          redis.call('LREM', key, -1, raw)
        end
        count = count + 1
        local tag = prefix .. count
        claimed[#claimed + 1] = tag
        claimed[#claimed + 1] = list
        claimed[#claimed + 1] = raw
        records[#records + 1] = tag
        records[#records + 1] = '[' .. raw .. ARGV[suffixes + list]
        scores[#scores + 1] = now
        scores[#scores + 1] = tag
      else
        kept = kept + 1
        if whose == 'foreign' then
          foreign[task] = (foreign[task] or 0) + 1
        elseif whose == 'unclear' and #unclear < 32 then
          unclear[#unclear + 1] = list
          unclear[#unclear + 1] = raw
        end
      end
    end
    chunk = 64
  end
  if at_end > 0 then redis.call('LTRIM', key, 0, -(at_end + 1)) end
  if scanned >= window and redis.call('LLEN', key) > kept then more = 1 end
end

if count > 0 then
  redis.call('HSET', KEYS[1], unpack(records))
  redis.call('ZADD', KEYS[2], unpack(scores))
end
local waiting = {}
for task, number in pairs(foreign) do
  if #waiting < 64 then
    waiting[#waiting + 1] = task
    waiting[#waiting + 1] = number
  end
end
return {claimed, unclear, waiting, more}
