-- Shared head of the scripts whose result would differ if they ran twice. A batch whose reply is
-- lost with the connection is sent again, and Redis may have run it already.

-- The result that an earlier run of this operation left in `key`; nil when there was none.
local function earlier_result(key)
  local result = redis.call('GET', key)
  if result then return tonumber(result) end
end

-- Remembers the result for longer than any client sends a batch again, and returns it.
local function finish(key, result)
  redis.call('SET', key, string.format('%.0f', result), 'EX', 60)
  return result
end
