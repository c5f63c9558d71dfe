-- Drops every claim of the location numbers ARGV[1..] from bucket KEYS[1]. Returns how many.
local gone = 0
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local rest, went = all[i + 1], 0
  for j = 1, #ARGV do
    local own
    rest, own = without(rest, tonumber(ARGV[j]))
    if own then went = went + 1 end
  end
  if went > 0 then
    gone = gone + went
    if rest == '' then
      redis.call('HDEL', KEYS[1], all[i])
    else
      redis.call('HSET', KEYS[1], all[i], rest)
    end
  end
end
return gone
