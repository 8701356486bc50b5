-- Takes up to `want` messages of known tasks off the queues and records each in `unacked` in the same step.
--
-- KEYS  unacked, unacked_index, then the lists to serve in order
-- ARGV  want, window, few, depth, now (Unix seconds), tag prefix, 1 to leave messages whose `eta` is to come (else 0),
--       number of names, of names not wanted now, of delivery tags and of texts left to others; all of these;
--       per list: routing suffix, the end of the stored triple, `, "", "queue"]`; 1 if a slow window is due; and what the
--       last call returned of the list: its length, marker (a hash), number of newer elements, place, 1 if it is known
--
-- A message of another task is not moved: the ones behind it are found by looking further. Where the text alone does not
-- tell whose a message is (protocol 1, escaped names, names in other places) it is reported and not moved either.
--
-- A list of other workers' messages is looked through once, and then only where something may be new:
-- - the `few` elements at the served end, where restored messages are put;
-- - what was pushed since: the elements up to the marker, and `few` in any case;
-- - a window of a pass, from the served end to the other, whose place moves with the elements. Until the first pass ends the
--   list is not known. Beyond `depth` the pass goes on only if a window is due, and new elements are served before it ends.
--   Once the list is known, a pass is a check, and each of its windows is due at some time.
--
-- A call reads about `window` elements in all, and up to `few` in each region of each list in any case.
--
-- Returns how many messages were taken off each list; those messages, of which the n-th has the tag
-- `prefix .. n`; {list number, region, message, ...} of the unclear ones (region 0: not to be counted, 1: new, 2: in the
-- pass); and per list its length (-1: as it was), marker or false if it is the old one, newer elements, place, 1 if known,
-- 1 if a pass began, 1 if it ended, number of messages of ours that were left, {foreign task, count, ...} in the pass, and the
-- same of new ones.
local find, sub, min, max = string.find, string.sub, math.min, math.max
local call, sha1 = redis.call, redis.sha1hex
local want, window, few, depth = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local now, prefix, leave_etas = ARGV[5], ARGV[6], ARGV[7] == '1'
local wanted_count, unwanted_count = tonumber(ARGV[8]), tonumber(ARGV[9])
local tag_count, text_count = tonumber(ARGV[10]), tonumber(ARGV[11])
local name_count = wanted_count + unwanted_count
local PASSED_OVER, PUSHED, PASS = 0, 1, 2
-- How far to look for the marker, how many bytes and unclear messages to read, and how much of a foreign name to report.
local MARKER_SEARCH, MAX_BYTES, MAX_UNCLEAR, MAX_NAME = 2000, 1000000, 32, 200
local argument = 11
local quoted_names, wanted, left_tags, left_texts = {}, {}, {}, {}
for i = 1, name_count do
  local name = ARGV[argument + i]
  quoted_names[i] = '"' .. name .. '"'
  wanted[name] = i <= wanted_count
end
argument = argument + name_count
for i = 1, tag_count do left_tags[ARGV[argument + i]] = true end
argument = argument + tag_count
for i = 1, text_count do left_texts[i] = ARGV[argument + i] end
argument = argument + text_count

-- The text of a member with a string value. Inside a JSON text every quote is escaped, so `"task": "` can only begin a
-- real member, and the next quote ends its value unless a backslash stands before it. Plain searches: patterns cost the
-- server ten times as much.
local function member(raw, spaced, tight)
  local _, open = find(raw, spaced, 1, true)
  if not open then
    _, open = find(raw, tight, 1, true)
    if not open then return nil end
  end
  local close = find(raw, '"', open + 1, true)
  return close and sub(raw, open + 1, close - 1)
end

local function is_left_out(raw)
  if tag_count > 0 and left_tags[member(raw, '"delivery_tag": "', '"delivery_tag":"') or ''] then return true end
  for i = 1, text_count do
    if find(raw, left_texts[i], 1, true) then return true end
  end
  return false
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
  local eta = member(raw, '"eta": "', '"eta":"')
  if not eta then return false end
  local year, month, day, hour, minute, second, offset = string.match(sub(eta, 1, 40),
    '^(%d%d%d%d)%-(%d%d)%-(%d%d)[T ](%d%d):(%d%d):(%d%d)%.?%d*(.*)$')
  if not year then return false end
  local ahead = 0
  if offset ~= '' and offset ~= 'Z' then
    local sign, hours, minutes = string.match(offset, '^([+-])(%d%d):?(%d%d)$')
    if not sign then return false end
    ahead = (hours * 3600 + minutes * 60) * (sign == '-' and -1 or 1)
  end
  eta = days(tonumber(year), tonumber(month), tonumber(day)) * 86400 + hour * 3600 + minute * 60 + second
  return eta - ahead > tonumber(now)
end

-- Whose a message is that is not plainly ours. The only member `task` tells, unless another one's name is escaped. To search
-- for each name takes much longer.
local function verdict(raw, found)
  if is_left_out(raw) then return 'foreign', found or '?' end
  if not found or wanted[found] ~= nil or find(found, '\\', 1, true) then return 'unclear' end
  local _, first = find(raw, '"task"', 1, true)
  if find(raw, '"task"', first + 1, true) or find(raw, '\\u00', 1, true) then
    for i = 1, name_count do
      if find(raw, quoted_names[i], 1, true) then return 'unclear' end
    end
  end
  return 'foreign', found
end

local messages, records, scores, count = {}, {}, {}, 0
local unclear, budget = {}, window

-- Records what is about to be taken off a list. Redis does not undo a script that fails, so this comes first, and the
-- index before the hash: an entry without a record has no meaning.
local function record()
  if #records == 0 then return end
  call('ZADD', KEYS[2], unpack(scores))
  call('HSET', KEYS[1], unpack(records))
  records, scores = {}, {}
end

-- The list at hand, its length, which shrinks with each message taken, and how many of ours were left in it.
local list, key, suffix, length, left

local function take(raw)
  count = count + 1
  length = length - 1
  local tag, pair = prefix .. count, #records + 1
  messages[count] = raw
  records[pair], records[pair + 1] = tag, '[' .. raw .. suffix
  scores[pair], scores[pair + 1] = now, tag
end

-- Looks at up to `limit` elements behind the first `from` at the served end. Foreign ones are counted in `counts` from the
-- place `counted_from` on. Returns the place reached and the last element that was left.
local function look(from, limit, region, counts, counted_from)
  local kept, scanned, odd, bytes, last = from, 0, 0, 0, nil
  -- Elements of ours at the very end of the list are counted and popped together.
  local at_end = 0
  local chunk = want - count
  while count < want and scanned < limit and bytes < MAX_BYTES and odd < MAX_UNCLEAR do
    chunk = min(chunk, limit - scanned)
    local batch = call('LRANGE', key, -(kept + at_end + chunk), -(kept + at_end + 1))
    local size = #batch
    if size == 0 then break end
    for i = size, 1, -1 do
      if count >= want or odd >= MAX_UNCLEAR then break end
      local raw = batch[i]
      scanned = scanned + 1
      bytes = bytes + #raw
      local task = member(raw, '"task": "', '"task":"')
      local is_wanted = task and wanted[task]
      local ours = task and is_wanted ~= nil and is_header(raw) and not is_left_out(raw)
      if ours and (not is_wanted or leave_etas and is_later(raw)) then
        kept, last, left = kept + 1, raw, left + 1
      elseif ours then
        take(raw)
        if kept == 0 then
          at_end = at_end + 1
        else
          record()
          if at_end > 0 then
            call('LTRIM', key, 0, -(at_end + 1))
            at_end = 0
          end
          call('LREM', key, kept > length / 2 and 1 or -1, raw)
        end
      else
        kept, last = kept + 1, raw
        local whose, name = verdict(raw, task)
        local is_counted = counts and kept > counted_from
        if whose == 'unclear' then
          odd = odd + 1
          local place = #unclear
          unclear[place + 1], unclear[place + 2] = list, is_counted and region or PASSED_OVER
          unclear[place + 3] = raw
        elseif is_counted then
          name = sub(name, 1, MAX_NAME)
          counts[name] = (counts[name] or 0) + 1
        end
      end
    end
    -- Far from the end every read begins with a walk to it.
    chunk = from > 4096 and 256 or 64
  end
  if at_end > 0 then
    record()
    call('LTRIM', key, 0, -(at_end + 1))
  end
  budget = budget - scanned
  return kept, last
end

local function pairs_of(counts)
  local flat = {}
  for task, number in pairs(counts) do
    flat[#flat + 1] = task
    flat[#flat + 1] = number
  end
  return flat
end

-- How many elements of the list at hand were pushed after the marker, if it is found. A marker is a hash: the messages of
-- others never leave the server.
local function place_of(marker)
  local place = 0
  while place < MARKER_SEARCH do
    local batch = call('LRANGE', key, place, place + few - 1)
    if #batch == 0 then return nil end
    for i, raw in ipairs(batch) do
      if sha1(raw) == marker then return place + i - 1 end
    end
    place = place + #batch
  end
end

-- Serves the list at hand, given what the last call returned of it.
local function serve(is_due, length_then, marker, newer_then, place, known)
  local new_marker, newer, began, ended = false, 0, 0, 0
  local passed, pushed = {}, {}
  local function begin_anew()
    place, known, newer, new_marker = 0, false, 0, call('LINDEX', key, 0)
  end
  if not known and place == 0 then
    begin_anew()
  else
    newer = place_of(marker)
    local grown = newer and length - length_then - (newer - newer_then)
    -- What grew elsewhere was restored, or has the same bytes as the marker. A few of these are found at both ends.
    if not grown or grown > few then
      begin_anew()
    else
      place = min(max(0, place + min(0, grown)), length)
    end
  end

  local before = length
  if known or place > 0 then
    look(0, few, PASSED_OVER)
    place = max(0, place - (before - length))
  end

  local function look_at_the_new()
    local reached, last = look(max(0, length - max(newer, few)), max(few, budget), PUSHED, known and pushed, length - newer)
    newer = last and length - reached or min(newer, length - reached)
    new_marker = last or new_marker
  end
  local function go_on_with_the_pass()
    if place == 0 then began = 1 end
    local reached, last = look(place, max(few, budget), PASS, passed, 0)
    place = reached
    if place >= length then
      if not known then known, newer, new_marker = true, 0, length > 0 and call('LINDEX', key, 0) end
      place, ended = 0, 1
    elseif length - place < newer then
      newer, new_marker = length - place, last or new_marker
    end
  end

  if known then
    look_at_the_new()
    if is_due and count < want then go_on_with_the_pass() end
  else
    if place < depth or is_due then go_on_with_the_pass() end
    if not known and place >= depth and count < want then look_at_the_new() end
  end
  return { length, new_marker and sha1(new_marker), newer, place, known and 1 or 0, began, ended, left, pairs_of(passed), pairs_of(pushed) }
end

-- Redis does not undo a script. So what may be of a wrong type is read before anything is taken.
call('HEXISTS', KEYS[1], '')
call('ZSCORE', KEYS[2], '')
local lengths = {}
for number = 1, #KEYS - 2 do lengths[number] = call('LLEN', KEYS[number + 2]) end

local taken, lists = {}, {}
for number, length_now in ipairs(lengths) do
  list, key, suffix, left = number, KEYS[number + 2], ARGV[argument + 1], 0
  length = count < want and length_now or -1
  local before = count
  if length > 0 then
    lists[number] = serve(ARGV[argument + 2] == '1', tonumber(ARGV[argument + 3]), ARGV[argument + 4],
      tonumber(ARGV[argument + 5]), tonumber(ARGV[argument + 6]), ARGV[argument + 7] == '1')
  else
    lists[number] = { length, false, 0, 0, 0, 0, 0, 0, {}, {} }
  end
  taken[number] = count - before
  argument = argument + 7
end

return { taken, messages, unclear, lists }
