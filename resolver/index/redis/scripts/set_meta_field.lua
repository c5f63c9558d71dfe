-- Sets the field ARGV[1] of the index's meta, KEYS[1], to ARGV[2], where there is an index.
if redis.call('HGET', KEYS[1], 'identity') then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
