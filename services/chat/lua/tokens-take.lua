-- Takes tokens from a bucket that fills steadily, by the server's clock.
--
-- KEYS[1]  hash of the bucket: `tokens` (as of `at`), `at` (milliseconds since 1970); a full one has no key
-- ARGV[1]  how many to take, also when there are fewer (integer)
-- ARGV[2]  what it fills by, tokens a second (number over 0)
-- ARGV[3]  how many it holds (integer)
-- Returns the tokens left, 0 or more (text).

local count, rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local bucket = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = tonumber(bucket[1]) or burst
local passed = math.max(0, now - (tonumber(bucket[2]) or now))

tokens = math.max(0, math.min(burst, tokens + passed * rate / 1000) - count)
local left = string.format('%.3f', tokens)
redis.call('HSET', KEYS[1], 'tokens', left, 'at', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil((burst - tokens) * 1000 / rate) + 1000)
return left
