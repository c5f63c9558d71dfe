-- Records in KEYS[1] that the images ARGV[6..] have left location number ARGV[1]. An entry is kept for
-- ARGV[2] seconds. ARGV[3] of the images are claimed: so many are counted as released since the last
-- complete sweep. 0: they need not be counted. A negative number takes back what was counted.
-- Where they would be too many, nothing is recorded: at most the share ARGV[4] of the images that this
-- sweep has listed may be released, but always ARGV[5], and never all of several. With
-- the share 1 there is no limit.
-- KEYS: departures, released, status. Returns 1, or 0 where too many would be released.
local count = tonumber(ARGV[3])
local released = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or 0)
if count > 0 then
  local sweep = redis.call('HGET', KEYS[3], ARGV[1] .. ':sweep') or ''
  if string.find(sweep, '"guarded":', 1, true) then return 0 end
  local images = tonumber(string.match(sweep, '"images":(%d+)') or 0)
  local allowed = math.max(tonumber(ARGV[5]), math.floor(images * tonumber(ARGV[4])))
  if images > 1 then allowed = math.min(allowed, images - 1) end
  if tonumber(ARGV[4]) < 1 and released + count > allowed then return 0 end
end
if count ~= 0 then redis.call('HSET', KEYS[2], ARGV[1], math.max(0, released + count)) end
local now = redis.call('TIME')
local at = now[1] + now[2] / 1000000
for i = 6, #ARGV do redis.call('ZADD', KEYS[1], at, ARGV[i]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', at - ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
