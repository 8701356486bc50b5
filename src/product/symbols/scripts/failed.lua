-- Counts a failed warm-up, and remembers why it failed.
--
-- KEYS  error counter, what is known of refreshes
-- ARGV  time, reason
--
-- Returns what is unusable: a counter that holds no number is passed over.
attempt('INCRBY', KEYS[1], 1)
if not attempt('HSET', KEYS[2], 'failed_at', ARGV[1], 'failure', ARGV[2]) then
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[2], 'failed_at', ARGV[1], 'failure', ARGV[2])
end
return unusable
