-- Commands on keys that may hold anything, since other programs write to this Redis too. In front of the other scripts.
--
-- `unusable` collects what was found in the keys that a script replaced or passed over.
local unusable = {}

local function note(key, what)
  unusable[#unusable + 1] = key .. ': ' .. what
end

-- Runs a command on a key. Returns nil if the value of the key does not allow it; any other error ends the script.
local function attempt(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  if not (string.find(answer.err, '^WRONGTYPE') or string.find(answer.err, '^ERR ')) then
    return redis.call(command, key, ...)
  end
  note(key, answer.err)
  return nil
end

-- The text of a key; nil if it has none.
local function text(key)
  return attempt('GET', key) or nil
end

-- A number of a lease from the fencing hash; nil if it is none, or too large to count on from.
local function lease_number(key, field)
  local value = attempt('HGET', key, field)
  if value == false then return 0 end
  if value and #value <= 15 and string.match(value, '^%d+$') then return tonumber(value) end
  if value then note(key, field .. ' is no number of a lease') end
  return nil
end
