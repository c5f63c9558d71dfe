-- Renews the lease KEYS[1] for ARGV[2] milliseconds if ARGV[1] is the token of its holder.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
