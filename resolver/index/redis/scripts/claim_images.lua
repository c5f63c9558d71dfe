-- Claims images of bucket KEYS[1] for location number ARGV[1]. ARGV[2..] has two values for each image:
-- its field; and what is known of it: 4 bytes of letter case where it is not 0, and its mark. (Marks
-- have 0, 1, 7 or 8 bytes, so the length says whether there is a letter case.)
-- KEYS[2], where given: keeps the result, and is the result when it is there already.
-- One read and at most one write for at most 256 images. Returns how many claims are new.
--
-- Nearly all images have no owner yet, or are claimed already. They need none of the functions, which
-- would be made for each call: claim_shared_images.lua goes on with the others.
local number = tonumber(ARGV[1])
local plain, left = '', number * 2
while left > 127 do
  plain = plain .. string.char(left % 128 + 128)
  left = math.floor(left / 128)
end
plain = plain .. string.char(left)
local spelled = string.char(string.byte(plain) + 1) .. string.sub(plain, 2)
local active = plain .. '\0'

local fields, count = {}, 0
for i = 2, #ARGV, 2 do
  count = count + 1
  fields[count] = ARGV[i]
end
local values = redis.call('HMGET', KEYS[1], unpack(fields))
local put, at, new, shared = {}, 0, 0, {}
for i = 1, count do
  local value, known = values[i], ARGV[2 * i + 1]
  local size = #known
  local alone  -- the value where there is no other owner: what the bytes are is not kept there
  if size == 7 then
    alone = active
  elseif size < 2 or size == 8 then
    alone = plain .. known
  else
    alone = spelled .. string.sub(known, 1, 4) .. (size == 11 and '\0' or string.sub(known, 5))
  end
  if not value then
    put[at + 1], put[at + 2] = fields[i], alone
    at, new = at + 2, new + 1
  elseif value ~= alone then
    shared[#shared + 1] = i
  end
end
if #shared == 0 and not KEYS[2] then
  if at > 0 then redis.call('HSET', KEYS[1], unpack(put)) end
  return new
end

