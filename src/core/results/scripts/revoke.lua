-- Stores and announces that a task was revoked before a worker started it.
--
-- KEYS  result key
-- ARGV  result document, seconds it is kept (0: for ever)
--
-- A state that a worker has stored is left to that worker, as Celery 5.7 leaves it: only a task of which nothing is
-- stored, or that waits to be tried again, is marked. Returns 1 if the document was stored.
local waiting = { PENDING = true, RECEIVED = true, RETRY = true, REJECTED = true }
local old = redis.pcall('GET', KEYS[1])
if type(old) == 'table' then return 0 end
if old then
  -- Celery writes the status first. What is behind it may be JSON that only Python reads.
  local status = string.match(old, '^{"status": "(%u+)"')
  if not status then
    local ok, fields = pcall(cjson.decode, old)
    status = ok and type(fields) == 'table' and fields.status
  end
  if not waiting[status] then return 0 end
end
if tonumber(ARGV[2]) > 0 then
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[1])
end
redis.pcall('PUBLISH', KEYS[1], ARGV[1])
return 1
