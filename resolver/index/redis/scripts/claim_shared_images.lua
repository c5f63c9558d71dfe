-- The end of claim_images.lua: images that have other owners, or of which something else was known.

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

local earlier = KEYS[2] and earlier_result(KEYS[2])
if earlier then return earlier end
for _, i in ipairs(shared) do
  local known, entry = ARGV[2 * i + 1], plain
  local size = #known
  if size == 4 or size == 5 or size > 8 then
    entry, known = spelled .. string.sub(known, 1, 4), string.sub(known, 5)
  end
  local value, is_new = claimed(values[i], entry, known)
  if is_new then new = new + 1 end
  if value then
    put[at + 1], put[at + 2] = fields[i], value
    at = at + 2
  end
end
if at > 0 then redis.call('HSET', KEYS[1], unpack(put)) end
return KEYS[2] and finish(KEYS[2], new) or new
