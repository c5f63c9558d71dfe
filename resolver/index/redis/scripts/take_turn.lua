-- Takes the next of the turns that follow each other by at least ARGV[1] microseconds, ARGV[2]
-- microseconds from now or later, unless it is more than ARGV[3] from now. With -1 for ARGV[3] the
-- turn is now, whatever others have taken. KEYS[1] has when the next one is free.
-- Returns whether a turn was taken, and how far away it is.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local free = math.max(now, tonumber(redis.call('GET', KEYS[1])) or 0)
local interval, longest = tonumber(ARGV[1]), tonumber(ARGV[3])
local turn = longest < 0 and now or math.max(free, now + ARGV[2])
if longest >= 0 and turn - now > longest then return {0, turn - now} end
free = math.max(free, turn + interval)
redis.call('SET', KEYS[1], string.format('%.0f', free), 'PX', math.ceil((free - now) / 1000))
return {1, turn - now}
