-- Writes the fields ARGV[2..] (names and values) of a new index, if ARGV[1] is the token of the process
-- that makes it and no other has. What sweeps of an earlier index have proved goes with its claims.
-- KEYS: meta, creating, status, progress. Returns 1, or 0 when nothing was written.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
if redis.call('HGET', KEYS[1], 'identity') then return 0 end
redis.call('DEL', KEYS[3], KEYS[4])
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 1
