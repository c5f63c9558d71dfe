-- Drops every claim of the location numbers ARGV[1..] from bucket KEYS[1], and images that have no
-- owner left. Returns how many claims were dropped.
local gone = 0
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local rest = all[i + 1]
  for j = 1, #ARGV do
    local own
    rest, own = without(rest, tonumber(ARGV[j]))
    if own then gone = gone + 1 end
    if rest == '' then break end
  end
  if rest == '' then
    redis.call('HDEL', KEYS[1], all[i])
  elseif rest ~= all[i + 1] then
    redis.call('HSET', KEYS[1], all[i], rest)
  end
end
return gone
