-- Shared head of the scripts that write to several keys. Redis undoes nothing of a script that fails, so
-- one that meets a key of another type, which something else has written, must fail before it writes.
local function check_types(hashes, sets, sorted_sets, strings)
  for _, key in ipairs(hashes) do redis.call('HGET', key, '') end
  for _, key in ipairs(sets) do redis.call('SISMEMBER', key, '') end
  for _, key in ipairs(sorted_sets) do redis.call('ZRANGEBYSCORE', key, 1, 0) end
  for _, key in ipairs(strings) do redis.call('GET', key) end
end
