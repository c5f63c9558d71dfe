-- Shared head of the scripts that change the registry.

-- Gives `key` a new version: the time in microseconds, and always more than before. So a version that
-- some process holds a table of never returns with other contents, not even after Redis lost its data
-- or was restored from an older snapshot. Returns it.
local function grow(key)
  local now = redis.call('TIME')
  local version = tonumber(now[1]) * 1000000 + tonumber(now[2])
  local before = tonumber(redis.call('GET', key) or nil) or 0
  if version <= before then version = before + 1 end
  local text = string.format('%.0f', version)
  redis.call('SET', key, text)
  return text
end

-- The same for a change of location `name` alone, which is added to `log`: a sorted set of names, each
-- by the version of its last change. The field `floor` of `meta` says from which version on the log has
-- all changes: from this one, where the one before is not in the log. Then a program that knows of no
-- log has made it, or Redis has lost the log.
local function grow_for(key, log, meta, name)
  local before = redis.call('GET', key)
  local is_logged = before and redis.call('ZRANGEBYSCORE', log, before, before)[1]
  local version = grow(key)
  if not is_logged then
    redis.call('DEL', log)
    redis.call('HSET', meta, 'floor', version)
  end
  redis.call('ZADD', log, version, name)
  -- Readers that are five to ten minutes behind read everything.
  local floor = tonumber(redis.call('HGET', meta, 'floor') or nil)
  if not floor or tonumber(version) - floor > 600000000 then
    floor = string.format('%.0f', tonumber(version) - 300000000)
    redis.call('ZREMRANGEBYSCORE', log, '-inf', floor)
    redis.call('HSET', meta, 'floor', floor)
  end
end
