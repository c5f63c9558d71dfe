-- Shared head of the scripts that change the registry.

-- Makes the version in `key` another: the time in microseconds, and always more than before. So no
-- version comes again that a process may still hold a table of, neither after Redis lost its data nor
-- after it was restored from an older snapshot.
local function grow(key)
  local now = redis.call('TIME')
  local version = tonumber(now[1]) * 1000000 + tonumber(now[2])
  local before = tonumber(redis.call('GET', key) or '0')
  if version <= before then version = before + 1 end
  redis.call('SET', key, string.format('%.0f', version))
end
