-- Sets field ARGV[1] of the status of location number ARGV[2] to ARGV[3], unless it was removed.
-- ARGV[4] '1': the version stays, since no answer depends on the change; but not where Redis had lost
-- the check before, since processes may have read the registry without it.
-- ARGV[5], ARGV[6], where given: the location must have this name and this part in its record.
-- After Redis lost its data, numbers start from 1 again, so the number alone does not identify it.
-- KEYS: version, status, retired, locations, log, meta. Returns 1, or 0 when the location is gone.
check_types({KEYS[2], KEYS[6]}, {}, {KEYS[5]}, {KEYS[1]})
if redis.call('SISMEMBER', KEYS[3], ARGV[2]) == 1 then return 0 end
if ARGV[5] then
  local record = redis.call('HGET', KEYS[4], ARGV[5])
  local same = record and string.match(record, '^%d+') == ARGV[2]
  if not same or not string.find(record, ARGV[6], 1, true) then return 0 end
end
local field = ARGV[2] .. ':' .. ARGV[1]
local stored = redis.call('HGET', KEYS[2], field)
if stored ~= ARGV[3] then
  redis.call('HSET', KEYS[2], field, ARGV[3])
  if ARGV[4] == '1' and (stored or ARGV[1] ~= 'check') then return 1 end
  if ARGV[5] then grow_for(KEYS[1], KEYS[5], KEYS[6], ARGV[5]) else grow(KEYS[1]) end
end
return 1
