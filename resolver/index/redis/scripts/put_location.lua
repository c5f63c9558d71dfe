-- Sets location ARGV[1] to the JSON ARGV[3] if its record still is ARGV[2] ('' for none).
-- ARGV[4] '1': give it a new number, so that no claim made for it so far counts.
-- ARGV[5]: the beginning of the audit entry. ARGV[6]: the first number that no location may have.
-- KEYS: version, locations, status, numbers, retired, progress, wanted, audit, removed, result, meta,
-- log.
-- Returns its number, 0 when it was changed meanwhile, or -1 when no number is left.
local earlier = earlier_result(KEYS[10])
if earlier then return earlier end
check_types({KEYS[2], KEYS[3], KEYS[6], KEYS[7], KEYS[11]}, {KEYS[5], KEYS[9]}, {KEYS[12]}, {KEYS[1]})
local current = redis.call('HGET', KEYS[2], ARGV[1]) or ''
if current ~= ARGV[2] then return finish(KEYS[10], 0) end
local field = number_field(ARGV[1])
local number = tonumber(string.match(current, '^%d+'))
-- Of a record that was lost, its claims are collected as if it had been removed.
local before = number or tonumber(redis.call('HGET', KEYS[11], field) or nil)
local is_new = not number or ARGV[4] == '1'
if is_new then
  number = last_number(KEYS[11], KEYS[4], KEYS[2], KEYS[5]) + 1
  if number >= tonumber(ARGV[6]) then return finish(KEYS[10], -1) end
end
-- First: where it cannot be recorded, nothing is done.
audit(KEYS[8], ARGV[5], string.match(current, '^%d+ (.*)$') or 'null', ARGV[3])
if is_new then
  if before then redis.call('SADD', KEYS[5], before) end
  -- Also of the new number: where Redis lost the counter and not the status, it had been given before.
  for _, stale in ipairs({number, before}) do
    redis.call('HDEL', KEYS[3], stale .. ':check', stale .. ':sweep', stale .. ':poll', stale .. ':feed')
    redis.call('HDEL', KEYS[6], stale)
    redis.call('HDEL', KEYS[7], stale)
  end
  redis.call('SET', KEYS[4], number)
  redis.call('HSET', KEYS[11], 'number', number)
end
redis.call('SREM', KEYS[9], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], number .. ' ' .. ARGV[3])
redis.call('HSET', KEYS[11], field, number)
grow_for(KEYS[1], KEYS[12], KEYS[11], ARGV[1])
return finish(KEYS[10], number)
