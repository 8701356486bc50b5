-- Deletes keys that hold another type than they should.
--
-- KEYS: the keys. ARGV: per key a command that fails on another type. Returns the deleted keys.
local deleted = {}
for n, key in ipairs(KEYS) do
  local answer = redis.pcall(ARGV[n], key)
  if type(answer) == 'table' and answer.err and string.find(answer.err, '^WRONGTYPE') then
    redis.call('DEL', key)
    deleted[#deleted + 1] = key
  end
end
return deleted
