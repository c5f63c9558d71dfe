-- The buckets of ARGV[1] bits are whole: reads use them from now on. KEYS: meta, version.
-- Returns the bits there were, or 0 when it was not being rebuilt so.
if redis.call('HGET', KEYS[1], 'next') ~= ARGV[1] then return 0 end
local old = redis.call('HGET', KEYS[1], 'bits')
redis.call('HSET', KEYS[1], 'bits', ARGV[1], 'old', old)
redis.call('HDEL', KEYS[1], 'next', 'at')
grow(KEYS[2])
return tonumber(old)
