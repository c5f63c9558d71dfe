-- Adds the audit entry ARGV[1] of an operation that changed no location. KEYS: audit, result.
local earlier = earlier_result(KEYS[2])
if earlier then return earlier end
audit(KEYS[1], ARGV[1], 'null', 'null')
return finish(KEYS[2], 1)
