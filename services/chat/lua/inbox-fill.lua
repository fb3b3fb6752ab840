-- Makes the cached inbox of one device anew from what its store holds.
--
-- KEYS[1]  sorted set of the device; see inbox-append.lua
-- ARGV[1]  token of the writer (text without \0)
-- ARGV[2]  time to live of the key, milliseconds (integer)
-- ARGV[3]  floor: the position above which the rows are all that there are, '' for the start (text)
-- ARGV[4...]  position (text) and payload (bytes), alternating
-- Returns nothing.

local key = KEYS[1]
redis.call('DEL', key)
redis.call('ZADD', key, 0, '\0' .. ARGV[1] .. '\0' .. ARGV[3])
for i = 4, #ARGV, 2 do redis.call('ZADD', key, 0, ARGV[i] .. '\0' .. ARGV[i + 1]) end
redis.call('PEXPIRE', key, ARGV[2])
