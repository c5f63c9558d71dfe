-- Drops the request ARGV[2] for a sweep of location ARGV[1] if it still is that one. KEYS: wanted.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
