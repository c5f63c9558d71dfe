-- Claims the images ARGV[3..] of bucket KEYS[1] for location number ARGV[1].
-- ARGV[2]: the length of a field. Each image: its field; where more is known than that it is there, a
-- byte that is 1 where 4 bytes of letter case follow and else 0, these, and the mark.
-- One read and at most one write for at most 256 images. Returns how many claims are new.
-- KEYS[2], where given: keeps the result, and is the result when it is there already.
local earlier = KEYS[2] and earlier_result(KEYS[2])
if earlier then return earlier end
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

local function is_checksum(mark)
  return string.byte(mark, 3) >= 96
end

-- The mark of our entry, where `news` and the stored mark `known` say what is known of it.
local function merged(news, known, others)
  if news == '' then
    news = known
  elseif #known == 7 and (news == '\0' or #news == 7 and is_checksum(news) and not is_checksum(known)) then
    news = known  -- what the bytes are is known better already
  end
  return others == 0 and single(news) or news
end

-- The value with our entry and what is known of it; nil where that changes nothing. And whether the
-- claim is new.
local function claimed(value, entry, news)
  local runs, marks, others, own, known = split(value, number)
  if not runs then return entry .. single(news), true end
  local mark = merged(news, known or '', others)
  if own == entry and mark == known then return nil, false end
  for i = 1, #runs do
    if marks[i] == mark then
      runs[i] = runs[i] .. entry
      return join(runs, marks), not own
    end
  end
  runs[#runs + 1], marks[#marks + 1] = entry, mark
  return join(runs, marks), not own
end

local fields, entries, news = {}, {}, {}
for i = 3, #ARGV do
  local image, entry, mark = ARGV[i], plain, ''
  if #image > width then
    local at = width + 2
    if string.byte(image, width + 1) == 1 then
      entry = spelled .. string.sub(image, at, at + 3)
      at = at + 4
    end
    mark = string.sub(image, at)
    image = string.sub(image, 1, width)
  end
  fields[i - 2], entries[i - 2], news[i - 2] = image, entry, mark
end
local values = redis.call('HMGET', KEYS[1], unpack(fields))
local new, put, at = 0, {}, 0
for i = 1, #fields do
  local value, entry = values[i], entries[i]
  local alone = entry .. single(news[i])
  local is_new = false
  if not value then
    value, is_new = alone, true
  elseif value == alone then
    value = nil
  else
    value, is_new = claimed(value, entry, news[i])
  end
  if is_new then new = new + 1 end
  if value then
    put[at + 1], put[at + 2] = fields[i], value
    at = at + 2
  end
end
if at > 0 then redis.call('HSET', KEYS[1], unpack(put)) end
return KEYS[2] and finish(KEYS[2], new) or new
