-- The images that were recorded in KEYS[1] within the last ARGV[1] seconds.
local now = redis.call('TIME')
local since = now[1] + now[2] / 1000000 - ARGV[1]
local ids = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], since, '+inf')) do
  if #id == 16 then ids[#ids + 1] = id end
end
return ids
