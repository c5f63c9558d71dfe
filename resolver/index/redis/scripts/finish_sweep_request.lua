-- Drops the request for a sweep of location number ARGV[1] if it still is ARGV[2]. KEYS: wanted.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
