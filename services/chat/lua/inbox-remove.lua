-- Takes rows out of the cached inbox of one device; all of it, if something of it may have been lost.
--
-- KEYS[1]  sorted set of the device; see inbox-append.lua
-- ARGV[1]  token of the writer (text without \0)
-- ARGV[2]  time to live of the key, milliseconds (integer)
-- ARGV[3...]  positions (text)
-- Returns nothing.

local key = KEYS[1]
local mark = redis.call('ZRANGE', key, 0, 0)[1]
if not mark then return end
if string.match(mark, '^%z([^%z]*)%z') ~= ARGV[1] then
  redis.call('DEL', key)
  return
end
for i = 3, #ARGV do
  redis.call('ZREMRANGEBYLEX', key, '[' .. ARGV[i] .. '\0', '(' .. ARGV[i] .. '\1')
end
redis.call('PEXPIRE', key, ARGV[2])
