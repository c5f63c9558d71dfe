-- Records which locations Redis has lost: those of ARGV, which some process has seen there, that have no
-- record, and that nobody has removed.
-- KEYS: version, locations, removed, meta, log. Returns 1.
check_types({KEYS[2], KEYS[4]}, {KEYS[3]}, {KEYS[5]}, {KEYS[1]})
for _, name in ipairs(ARGV) do
  local is_lost = not redis.call('HGET', KEYS[2], name) and redis.call('SISMEMBER', KEYS[3], name) == 0
  -- No number: the one that it had may have been given to another location since.
  if is_lost and redis.call('HSETNX', KEYS[4], number_field(name), 'lost') == 1 then
    grow_for(KEYS[1], KEYS[5], KEYS[4], name)
  end
end
return 1
