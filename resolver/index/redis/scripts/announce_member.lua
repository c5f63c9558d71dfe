-- Announces ARGV[1] in KEYS[1] for ARGV[2] seconds; 0: it leaves. Returns all that are announced, as
-- far as they are as long as ARGV[1]; at most ARGV[3].
local now = redis.call('TIME')
local at = now[1] + now[2] / 1000000
redis.call('ZADD', KEYS[1], at + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', at)
redis.call('EXPIRE', KEYS[1], 86400)
return announced(KEYS[1], '-inf', ARGV[3], #ARGV[1])
