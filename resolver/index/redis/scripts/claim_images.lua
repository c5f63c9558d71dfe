-- Claims the images ARGV[3..] of bucket KEYS[1] for location number ARGV[1].
-- ARGV[2]: the length of a field. Each image: its field, then 4 bytes of letter case where not 0.
-- One read and one write for at most 256 images. Returns how many claims are new.
local number, width = tonumber(ARGV[1]), tonumber(ARGV[2])
local function varint(n)
  local out = ''
  while n > 127 do
    out = out .. string.char(n % 128 + 128)
    n = math.floor(n / 128)
  end
  return out .. string.char(n)
end
local plain, spelled = varint(number * 2), varint(number * 2 + 1)
local fields, entries = {}, {}
for i = 3, #ARGV do
  local image = ARGV[i]
  if #image == width then
    fields[i - 2], entries[i - 2] = image, plain
  else
    fields[i - 2], entries[i - 2] = string.sub(image, 1, width), spelled .. string.sub(image, width + 1)
  end
end
local values = redis.call('HMGET', KEYS[1], unpack(fields))
local new, put, at = 0, {}, 0
for i = 1, #fields do
  local value, entry = values[i], entries[i]
  if not value then
    new = new + 1
    put[at + 1], put[at + 2] = fields[i], entry
    at = at + 2
  elseif value ~= entry then
    local rest, own = without(value, number)
    if own ~= entry then
      if not own then new = new + 1 end
      put[at + 1], put[at + 2] = fields[i], rest .. entry
      at = at + 2
    end
  end
end
if at > 0 then redis.call('HSET', KEYS[1], unpack(put)) end
return new
