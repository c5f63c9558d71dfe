-- Begins, or continues, a rebuild of the index with ARGV[1] bits. KEYS: meta, version.
-- Returns 1; 0 when it is being rebuilt with another number; 2 when it has that number already.
local following = redis.call('HGET', KEYS[1], 'next')
if following then return following == ARGV[1] and 1 or 0 end
if redis.call('HGET', KEYS[1], 'bits') == ARGV[1] then return 2 end
redis.call('HSET', KEYS[1], 'next', ARGV[1], 'at', 0)
grow(KEYS[2])
return 1
