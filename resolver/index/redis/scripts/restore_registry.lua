-- Writes again what follows from the records: the version, and the numbers in the index's meta.
-- Redis has lost them, or a program that does not know the latter has registered a location.
-- KEYS: version, locations, meta. Returns 1.
local records = redis.call('HGETALL', KEYS[2])
for i = 1, #records, 2 do
  local number = string.match(records[i + 1], '^%d+')
  if number then redis.call('HSETNX', KEYS[3], number_field(records[i]), number) end
end
grow(KEYS[1])
return 1
