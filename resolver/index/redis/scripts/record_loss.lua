-- Compares the state of the servers, ARGV[1], with the one that was recorded last. Another one means
-- that Redis may have lost claims since: sweeps that began before do not prove absence any more.
-- KEYS: meta, version. Returns 1 where it was another one.
if not redis.call('HGET', KEYS[1], 'identity') then return 0 end
local before = redis.call('HGET', KEYS[1], 'servers')
if before == ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'servers', ARGV[1])
if before then
  local losses = tonumber(redis.call('HGET', KEYS[1], 'losses') or 0)
  redis.call('HSET', KEYS[1], 'losses', losses + 1)
end
grow(KEYS[2])
return before and 1 or 0
