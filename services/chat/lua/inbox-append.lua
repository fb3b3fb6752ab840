-- Adds rows to the cached inbox of one device, if there is one and nothing of it may have been lost.
--
-- KEYS[1]  sorted set of the device, all scores 0, so that members stand in the order of their bytes: first the mark,
--          `\0<token>\0<floor>`, then one member per row, `<position>\0<payload>`. It holds every row of the inbox above
--          the floor.
-- ARGV[1]  token of the writer (text without \0)
-- ARGV[2]  most rows to keep (integer)
-- ARGV[3]  time to live of the key, milliseconds (integer)
-- ARGV[4]  position to raise the floor to, '' for none (text)
-- ARGV[5...]  position (text) and payload (bytes), alternating
-- Returns nothing.

local key, most = KEYS[1], tonumber(ARGV[2])
local mark = redis.call('ZRANGE', key, 0, 0)[1]
if not mark then return end
local token, before = string.match(mark, '^%z([^%z]*)%z(.*)$')
if token ~= ARGV[1] then
  redis.call('DEL', key)
  return
end

-- Lua compares text by the server's locale.
local function below(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

local floor = before
if below(floor, ARGV[4]) then floor = ARGV[4] end
for i = 5, #ARGV, 2 do
  local position = ARGV[i]
  if below(floor, position) then
    redis.call('ZREMRANGEBYLEX', key, '[' .. position .. '\0', '(' .. position .. '\1')
    redis.call('ZADD', key, 0, position .. '\0' .. ARGV[i + 1])
  end
end

local excess = redis.call('ZCARD', key) - 1 - most
if excess > 0 then
  local last = string.match(redis.call('ZRANGE', key, excess, excess)[1], '^[^%z]*')
  if below(floor, last) then floor = last end
end
if floor ~= before then
  redis.call('ZREMRANGEBYLEX', key, '-', '(' .. floor .. '\1')
  redis.call('ZADD', key, 0, '\0' .. token .. '\0' .. floor)
end
redis.call('PEXPIRE', key, ARGV[3])
