-- Those that are announced in KEYS[1] now: at most ARGV[1], without those longer than ARGV[2] bytes.
local now = redis.call('TIME')
local at = string.format('(%.6f', now[1] + now[2] / 1000000)
return announced(KEYS[1], at, ARGV[1], ARGV[2])
