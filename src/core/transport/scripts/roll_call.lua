-- Names the workers whose lease has been missing for longer than the grace, and registers the caller.
--
-- KEYS  hash of workers, sorted set of suspects
-- ARGV  id of the caller, its node name, grace in seconds, prefix of leases
--
-- Times are the server's. A worker is suspected first and given up later, so that all workers find the time
-- to renew their leases after the server itself was away. Among the living this takes two commands and one for
-- every other worker.
--
-- Returns the workers that are given up, and how many are suspected.
local call = redis.call
local now
local dead, suspected, registered = {}, 0, false
local workers = call('HKEYS', KEYS[1])
local since = {}
if #workers > 1 or workers[1] ~= ARGV[1] then
  local suspects = call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
  for place = 1, #suspects, 2 do since[suspects[place]] = tonumber(suspects[place + 1]) end
end
for _, worker in ipairs(workers) do
  if worker == ARGV[1] then
    registered = true
    if since[worker] then call('ZREM', KEYS[2], worker) end
  elseif call('EXISTS', ARGV[4] .. worker) == 1 then
    if since[worker] then call('ZREM', KEYS[2], worker) end
  else
    if not now then
      local time = call('TIME')
      now = tonumber(time[1]) + tonumber(time[2]) / 1000000
    end
    if not since[worker] then
      suspected = suspected + 1
      call('ZADD', KEYS[2], now, worker)
    elseif now - since[worker] >= tonumber(ARGV[3]) then
      dead[#dead + 1] = worker
    else
      suspected = suspected + 1
    end
  end
end
if not registered then call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
return {dead, suspected}
