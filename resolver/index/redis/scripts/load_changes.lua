-- What has changed in the registry since the version ARGV[1] of the index ARGV[2], where the log of
-- changes has it, and at most ARGV[3] locations have; else nothing.
-- KEYS: version, locations, status, meta, removed, log.
-- Returns the version, `servers` and `losses` of the meta, and for each location that has changed: its
-- name, record, check, sweep, poll and feed, and whether it was removed.
local version = redis.call('GET', KEYS[1])
local meta = redis.call('HMGET', KEYS[4], 'identity', 'floor', 'servers', 'losses')
local known = tonumber(ARGV[1])
if not version or meta[1] ~= ARGV[2] or not meta[2] then return {} end
if known < tonumber(meta[2]) or known > tonumber(version) then return {} end
if not redis.call('ZRANGEBYSCORE', KEYS[6], version, version)[1] then return {} end
local names = redis.call('ZRANGEBYSCORE', KEYS[6], '(' .. ARGV[1], '+inf')
if #names > tonumber(ARGV[3]) then return {} end
local rows = {}
for i, name in ipairs(names) do
  local record = redis.call('HGET', KEYS[2], name)
  local number = record and string.match(record, '^%d+')
  local row = {name, record, false, false, false, false, redis.call('SISMEMBER', KEYS[5], name)}
  if number then
    local status = redis.call('HMGET', KEYS[3], number .. ':check', number .. ':sweep',
      number .. ':poll', number .. ':feed')
    for j = 1, 4 do row[2 + j] = status[j] end
  end
  rows[i] = row
end
return {version, meta[3], meta[4], rows}
