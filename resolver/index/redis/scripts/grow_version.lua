-- Shared head of the scripts that change the registry.

-- Gives `key` a new version: the time in microseconds, and always more than before. So a version that
-- some process holds a table of never returns with other contents, not even after Redis lost its data
-- or was restored from an older snapshot.
local function grow(key)
  local now = redis.call('TIME')
  local version = tonumber(now[1]) * 1000000 + tonumber(now[2])
  local before = tonumber(redis.call('GET', key) or '0')
  if version <= before then version = before + 1 end
  redis.call('SET', key, string.format('%.0f', version))
end
