-- Shared head of the scripts that change the registry.

-- Makes the version in `key` another. Counting begins at the time in microseconds, so that after
-- Redis lost its data no version comes again that a process may still hold a table of.
local function grow(key)
  if redis.call('EXISTS', key) == 0 then
    local now = redis.call('TIME')
    redis.call('SET', key, now[1] .. string.format('%06d', tonumber(now[2])))
  end
  redis.call('INCR', key)
end
