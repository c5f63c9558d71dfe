-- Drops the claims of location number ARGV[1] on the fields ARGV[2..] of bucket KEYS[1].
-- One read and at most two writes for all of them. Returns how many claims were dropped.
-- KEYS[2], where given: keeps the result, and is the result when it is there already.
local earlier = KEYS[2] and earlier_result(KEYS[2])
if earlier then return earlier end
local number = tonumber(ARGV[1])
local values = redis.call('HMGET', KEYS[1], unpack(ARGV, 2))
local put, drop = {}, {}
local gone = 0
for i = 2, #ARGV do
  local value = values[i - 1]
  if value then
    local rest, own = without(value, number)
    if own then
      gone = gone + 1
      if rest == '' then
        drop[#drop + 1] = ARGV[i]
      else
        put[#put + 1] = ARGV[i]
        put[#put + 1] = rest
      end
    end
  end
end
if #put > 0 then redis.call('HSET', KEYS[1], unpack(put)) end
if #drop > 0 then redis.call('HDEL', KEYS[1], unpack(drop)) end
return KEYS[2] and finish(KEYS[2], gone) or gone
