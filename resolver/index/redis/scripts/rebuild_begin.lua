-- Begins, or continues, a rebuild of the index with buckets of the code ARGV[1], which programs of
-- formats below ARGV[2] must neither read nor write. KEYS: meta, version.
-- Returns 1; 0 when it is being rebuilt with other buckets; 2 when it has these already.
local following = redis.call('HGET', KEYS[1], 'next')
if following then return following == ARGV[1] and 1 or 0 end
if redis.call('HGET', KEYS[1], 'bits') == ARGV[1] then return 2 end
local meta = redis.call('HMGET', KEYS[1], 'format', 'writers')
local readers = tonumber(meta[1])
redis.call('HSET', KEYS[1], 'next', ARGV[1], 'at', 0,
  'format', math.max(readers, ARGV[2]),
  'writers', math.max(tonumber(meta[2] or readers), ARGV[2]))
grow(KEYS[2])
return 1
