-- Location ARGV[1] has the images ARGV[3..] of bucket KEYS[1].
-- ARGV[2]: bytes of a field. Each image: its field, then 4 bytes of letter case where not 0.
-- Returns how many claims are new.
local number, width = tonumber(ARGV[1]), tonumber(ARGV[2])
local plain, spelled = '', ''
do
  local function varint(n)
    local out = ''
    while n > 127 do
      out = out .. string.char(n % 128 + 128)
      n = math.floor(n / 128)
    end
    return out .. string.char(n)
  end
  plain, spelled = varint(number * 2), varint(number * 2 + 1)
end
local new = 0
for i = 3, #ARGV do
  local field, case = string.sub(ARGV[i], 1, width), string.sub(ARGV[i], width + 1)
  local entry = case == '' and plain or spelled .. case
  local value = redis.call('HGET', KEYS[1], field)
  if not value then
    redis.call('HSET', KEYS[1], field, entry)
    new = new + 1
  elseif value ~= entry then
    local rest, own = without(value, number)
    if own ~= entry then
      redis.call('HSET', KEYS[1], field, rest .. entry)
      if not own then new = new + 1 end
    end
  end
end
return new
