-- Records in KEYS[1] that the images ARGV[2..] have left. An entry is kept for ARGV[1] seconds.
local now = redis.call('TIME')
local at = now[1] + now[2] / 1000000
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], at, ARGV[i]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', at - ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
