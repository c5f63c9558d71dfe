-- Location ARGV[1] no longer has the images with the fields ARGV[2..] of bucket KEYS[1].
-- Returns how many claims went.
local number = tonumber(ARGV[1])
local gone = 0
for i = 2, #ARGV do
  local value = redis.call('HGET', KEYS[1], ARGV[i])
  if value then
    local rest, own = without(value, number)
    if own then
      gone = gone + 1
      if rest == '' then
        redis.call('HDEL', KEYS[1], ARGV[i])
      else
        redis.call('HSET', KEYS[1], ARGV[i], rest)
      end
    end
  end
end
return gone
