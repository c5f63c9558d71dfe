-- Shared head of the claim scripts. It reads owners in the form that resolver/index/codec.py describes.

local FIRST_MARK = 524288

-- The number of the entry at `at`, its bytes, and where the next one begins; nil where it is cut short.
local function entry_at(value, at)
  local start, entry, scale, byte = at, 0, 1, nil
  repeat
    byte = string.byte(value, at)
    if not byte then return nil end
    at = at + 1
    entry = entry + (byte % 128) * scale
    scale = scale * 128
  until byte < 128
  if entry % 2 == 1 then at = at + 4 end
  if at > #value + 1 then return nil end
  return math.floor(entry / 2), string.sub(value, start, at - 1), at
end

-- The value without location `number`: a list of runs of owners, the list of their marks ('' for the
-- last run, of which nothing is known), how many owners that are, and the entry and mark of `number`
-- (nil where it is no owner). Nothing where the value cannot be read.
local function split(value, number)
  local runs, marks, others, own, own_mark = {}, {}, 0, nil, nil
  local at, run, is_own_run = 1, '', false
  while at <= #value do
    local found, text, after = entry_at(value, at)
    if not found then return nil end
    at = after
    if found == 0 or found >= FIRST_MARK then
      if is_own_run then own_mark = text end
      if run ~= '' then runs[#runs + 1], marks[#marks + 1] = run, text end
      run, is_own_run = '', false
    elseif found == number then
      own, own_mark, is_own_run = text, '', true
    else
      run, others = run .. text, others + 1
    end
  end
  if run ~= '' then runs[#runs + 1], marks[#marks + 1] = run, '' end
  return runs, marks, others, own, own_mark
end

-- The mark for an image with one owner: what its bytes are is not kept there.
local function single(mark)
  return #mark == 7 and '\0' or mark
end

-- The value of these runs and marks. A run of which nothing is known comes last.
local function join(runs, marks)
  local value, last = '', ''
  for i = 1, #runs do
    if marks[i] == '' then last = last .. runs[i] else value = value .. runs[i] .. marks[i] end
  end
  return value .. last
end

-- The value without location `number`, and whether that was an owner. '' where no owner is left.
local function without(value, number)
  local runs, marks, others, own = split(value, number)
  if not runs or others == 0 then return '', own end
  if others == 1 then marks[1] = single(marks[1]) end
  return join(runs, marks), own
end
