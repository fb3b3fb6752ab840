-- Reads from the cached inbox of one device.
--
-- KEYS[1]  sorted set of the device; see inbox-append.lua
-- ARGV[1]  token of the reader (text without \0)
-- ARGV[2]  position after which the page begins, '' for the start (text)
-- ARGV[3]  most rows to return (integer)
-- Returns the members of the rows in order; nothing when the cache may lack one of them.

local mark = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
if not mark then return false end
local token, floor = string.match(mark, '^%z([^%z]*)%z(.*)$')
if token ~= ARGV[1] then return false end

-- Lua compares text by the server's locale.
local after = ARGV[2]
for i = 1, #floor do
  local x, y = string.byte(after, i) or -1, string.byte(floor, i)
  if x < y then return false end
  if x > y then break end
end
return redis.call('ZRANGE', KEYS[1], '(' .. after .. '\1', '+', 'BYLEX', 'LIMIT', 0, ARGV[3])
