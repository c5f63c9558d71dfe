-- Releases the lease KEYS[1] if ARGV[1] is the token of its holder.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
