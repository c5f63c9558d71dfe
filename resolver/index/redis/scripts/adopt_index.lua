-- A program of format ARGV[1] begins to write to the index with the meta KEYS[1].
-- ARGV[2], ARGV[3]: the oldest formats that may read and write what it writes.
-- Returns 1, or 0 where there is no index or it accepts no writes from that format.
local meta = redis.call('HMGET', KEYS[1], 'format', 'writers', 'newest')
local readers = tonumber(meta[1])
if not readers then return 0 end
local writers, newest = tonumber(meta[2] or readers), tonumber(meta[3] or readers)
local format = tonumber(ARGV[1])
if readers > format or writers > format then return 0 end
redis.call('HSET', KEYS[1],
  'format', math.max(readers, ARGV[2]),
  'writers', math.max(writers, ARGV[3]),
  'newest', math.max(newest, format))
return 1
