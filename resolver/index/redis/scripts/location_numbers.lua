-- Shared head of the scripts that register and remove locations. Redis may have lost a key since.

-- The field of the index's meta that has the number of location `name`, or `lost` where that is not
-- known any more. A location that has the field and no record was lost.
local function number_field(name)
  return 'location:' .. name
end

-- The last number that a location was given. It is stored twice: in `counter`, and in the index's
-- meta, which has the identity of the index too. Where neither is left, another index is made, without
-- a claim. Where one is missing, the records and the retired numbers count as well: the other one may
-- have been written by a program that knows the counter only.
local function last_number(meta, counter, locations, retired)
  local counted = tonumber(redis.call('GET', counter) or nil)
  local stored = tonumber(redis.call('HGET', meta, 'number') or nil)
  local last = math.max(counted or 0, stored or 0)
  if not counted or not stored then
    local records = redis.call('HGETALL', locations)
    for i = 2, #records, 2 do
      last = math.max(last, tonumber(string.match(records[i], '^%d+') or 0))
    end
    for _, number in ipairs(redis.call('SMEMBERS', retired)) do
      last = math.max(last, tonumber(number) or 0)
    end
  end
  return last
end
