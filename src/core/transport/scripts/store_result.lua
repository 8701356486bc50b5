-- Stores a result document and announces it to the clients that wait for it. A stored SUCCESS is never replaced.
--
-- `store` returns 0 if a success was there already, 1 if the document was stored and announced, 2 if it was stored and
-- this user may not publish, 3 if it replaced a value of another type. A text that other scripts begin with.
local call, pcall_redis = redis.call, redis.pcall

-- Celery writes the status first. What is behind it may be JSON that only Python reads.
local function is_success(document)
  if string.find(document, '{"status": "SUCCESS"', 1, true) == 1 then return true end
  local ok, fields = pcall(cjson.decode, document)
  return ok and type(fields) == 'table' and fields.status == 'SUCCESS'
end

local function set(key, document, expires, condition)
  if expires == '0' then return call('SET', key, document, condition) end
  return call('SET', key, document, 'EX', expires, condition)
end

local function store(key, document, expires)
  local stored = 1
  -- Nearly always there is no older state, and one command does.
  if not set(key, document, expires, 'NX') then
    local old = pcall_redis('GET', key)
    if type(old) == 'string' and is_success(old) then return 0 end
    if type(old) == 'table' then stored = 3 end
    set(key, document, expires, 'XX')
  end
  if type(pcall_redis('PUBLISH', key, document)) == 'table' then return 2 end
  return stored
end
