-- Renews a worker's lease and names the workers whose lease has been missing for longer than the grace.
--
-- KEYS  lease of this worker, hash of workers, sorted set of suspects
-- ARGV  id of this worker, its node name, lease in ms, grace in seconds, prefix of leases
--
-- Times are the server's. A worker is suspected first and given up later, so that all workers find the time
-- to renew their leases after the server itself was away.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('ZREM', KEYS[3], ARGV[1])

local dead = {}
for _, worker in ipairs(redis.call('HKEYS', KEYS[2])) do
  if redis.call('EXISTS', ARGV[5] .. worker) == 1 then
    redis.call('ZREM', KEYS[3], worker)
  else
    local since = redis.call('ZSCORE', KEYS[3], worker)
    if not since then
      redis.call('ZADD', KEYS[3], now, worker)
    elseif now - tonumber(since) >= tonumber(ARGV[4]) then
      dead[#dead + 1] = worker
    end
  end
end
return dead
