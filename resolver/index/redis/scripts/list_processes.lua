-- All that are announced in KEYS[1] now.
local now = redis.call('TIME')
local at = string.format('(%.6f', now[1] + now[2] / 1000000)
return redis.call('ZRANGEBYSCORE', KEYS[1], at, '+inf')
