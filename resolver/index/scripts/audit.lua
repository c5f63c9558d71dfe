-- Shared head of the scripts whose changes are kept for operators to read.

-- Keeps in list `key` that `entry` (JSON without its end) made `after` of `before`, both JSON.
local function audit(key, entry, before, after)
  redis.call('LPUSH', key, entry .. ',"before":' .. before .. ',"after":' .. after .. '}')
  redis.call('LTRIM', key, 0, 9999)
end
