-- Announces the process ARGV[1], of the version ARGV[2], for ARGV[3] seconds; 0: it leaves.
-- KEYS: processes, versions. Returns the versions of all that are announced: at most ARGV[4], without
-- those longer than ARGV[5] bytes.
local now = redis.call('TIME')
local at = now[1] + now[2] / 1000000
redis.call('ZADD', KEYS[1], at + ARGV[3], ARGV[1])
if tonumber(ARGV[3]) > 0 then
  redis.call('ZADD', KEYS[2], at + ARGV[3], ARGV[2])
end
for _, key in ipairs(KEYS) do
  redis.call('ZREMRANGEBYSCORE', key, '-inf', at)
  redis.call('EXPIRE', key, 86400)
end
return announced(KEYS[2], '-inf', ARGV[4], ARGV[5])
