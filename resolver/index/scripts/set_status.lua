-- Sets field ARGV[1] of the status of location number ARGV[2] to ARGV[3], unless it was removed.
-- KEYS: version, status, retired. Returns 1, or 0 when the location is gone.
if redis.call('SISMEMBER', KEYS[3], ARGV[2]) == 1 then return 0 end
local field = ARGV[2] .. ':' .. ARGV[1]
if redis.call('HGET', KEYS[2], field) ~= ARGV[3] then
  redis.call('HSET', KEYS[2], field, ARGV[3])
  redis.call('INCR', KEYS[1])
end
return 1
