-- The images that were recorded in KEYS[1] within the last ARGV[1] seconds.
local now = redis.call('TIME')
return redis.call('ZRANGEBYSCORE', KEYS[1], now[1] + now[2] / 1000000 - ARGV[1], '+inf')
