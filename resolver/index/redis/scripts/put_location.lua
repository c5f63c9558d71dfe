-- Sets location ARGV[1] to the JSON ARGV[3] if its record still is ARGV[2] ('' for none).
-- ARGV[4] '1': give it a new number, so that no claim made for it so far counts.
-- ARGV[5]: the beginning of the audit entry. ARGV[6]: the first number that no location may have.
-- KEYS: version, locations, status, numbers, retired, progress, wanted, audit, removed, result.
-- Returns its number, 0 when it was changed meanwhile, or -1 when no number is left.
local earlier = earlier_result(KEYS[10])
if earlier then return earlier end
local current = redis.call('HGET', KEYS[2], ARGV[1]) or ''
if current ~= ARGV[2] then return finish(KEYS[10], 0) end
local number = tonumber(string.match(current, '^%d+'))
local last = tonumber(redis.call('GET', KEYS[4]) or '0')
if (not number or ARGV[4] == '1') and last + 1 >= tonumber(ARGV[6]) then return finish(KEYS[10], -1) end
if number and ARGV[4] == '1' then
  redis.call('SADD', KEYS[5], number)
  redis.call('HDEL', KEYS[3], number .. ':check', number .. ':sweep', number .. ':poll', number .. ':feed')
  redis.call('HDEL', KEYS[6], number)
  redis.call('HDEL', KEYS[7], number)
  number = nil
end
if not number then number = redis.call('INCR', KEYS[4]) end
redis.call('SREM', KEYS[9], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], number .. ' ' .. ARGV[3])
audit(KEYS[8], ARGV[5], string.match(current, '^%d+ (.*)$') or 'null', ARGV[3])
grow(KEYS[1])
return finish(KEYS[10], number)
