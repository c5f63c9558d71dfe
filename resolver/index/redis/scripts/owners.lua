-- Shared head of the claim scripts. It reads owners in the form that resolver/index/codec.py describes.

-- The value without the entry of location `number`, and that entry (nil when there is none).
local function without(value, number)
  local at, rest, own = 1, '', nil
  while at <= #value do
    local start, entry, scale, byte = at, 0, 1, nil
    repeat
      byte = string.byte(value, at)
      at = at + 1
      entry = entry + (byte % 128) * scale
      scale = scale * 128
    until byte < 128
    if entry % 2 == 1 then at = at + 4 end
    local text = string.sub(value, start, at - 1)
    if math.floor(entry / 2) == number then own = text else rest = rest .. text end
  end
  return rest, own
end
