-- Has reads use the buckets of the code ARGV[1], which are complete. KEYS: meta, version.
-- Returns the previous code, or 0 when no rebuild with ARGV[1] is under way.
if redis.call('HGET', KEYS[1], 'next') ~= ARGV[1] then return 0 end
local old = redis.call('HGET', KEYS[1], 'bits')
redis.call('HSET', KEYS[1], 'bits', ARGV[1], 'old', old)
redis.call('HDEL', KEYS[1], 'next', 'at')
grow(KEYS[2])
return tonumber(old)
