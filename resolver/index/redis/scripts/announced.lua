-- Shared head of the scripts that read who is announced.

-- The members of the sorted set `key` with a score of `from` or more: at most `most` of them, without
-- those longer than `bytes`. This program writes none that is.
local function announced(key, from, most, bytes)
  local found = {}
  local members = redis.call('ZRANGEBYSCORE', key, from, '+inf', 'LIMIT', 0, most)
  for _, member in ipairs(members) do
    if #member <= tonumber(bytes) then found[#found + 1] = member end
  end
  return found
end
