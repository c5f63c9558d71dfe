-- Shared head of the scripts that write the audit log.

-- Adds to the list `key` that `entry` (JSON without its end) turned `before` into `after`, both JSON.
-- The list keeps the last 10,000 entries: AUDIT_MAX_ENTRIES in resolver/index/audit.py.
local function audit(key, entry, before, after)
  redis.call('LPUSH', key, entry .. ',"before":' .. before .. ',"after":' .. after .. '}')
  redis.call('LTRIM', key, 0, 9999)
end
