-- Removes location ARGV[1]: its number is retired, so its claims stop counting with this write.
-- ARGV[2]: the beginning of the audit entry.
-- KEYS: version, locations, status, retired, progress, wanted, audit, removed, result, meta, log.
-- Returns its number (1 where its record has none), or 0 when there is no such location.
local earlier = earlier_result(KEYS[9])
if earlier then return earlier end
check_types({KEYS[2], KEYS[3], KEYS[5], KEYS[6], KEYS[10]}, {KEYS[4], KEYS[8]}, {KEYS[11]}, {KEYS[1]})
local field = number_field(ARGV[1])
local current = redis.call('HGET', KEYS[2], ARGV[1])
local before = redis.call('HGET', KEYS[10], field)
if not current and not before then return finish(KEYS[9], 0) end
local number = tonumber(string.match(current or before, '^%d+'))
-- First: where it cannot be recorded, nothing is done.
audit(KEYS[7], ARGV[2], string.match(current or '', '^%d+ ({.*})$') or 'null', 'null')
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[10], field)
redis.call('SADD', KEYS[8], ARGV[1])
if number then
  redis.call('HDEL', KEYS[3], number .. ':check', number .. ':sweep', number .. ':poll', number .. ':feed')
  redis.call('SADD', KEYS[4], number)
  redis.call('HDEL', KEYS[5], number)
  redis.call('HDEL', KEYS[6], number)
end
grow_for(KEYS[1], KEYS[11], KEYS[10], ARGV[1])
return finish(KEYS[9], number or 1)
