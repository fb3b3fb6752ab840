-- Notes that a router is about to accept messages of a sender, or has announced a device of that user.
--
-- KEYS[1]    who accepted for the sender last, and the latest time that was given: `time/router`
-- KEYS[2..]  one for each message: its fingerprint
-- ARGV[1]    the router
-- ARGV[2]    the latest time that it is about to give, milliseconds since 1970 (integer)
-- ARGV[3]    how long the first key stays, milliseconds
-- ARGV[4]    how long the others stay, milliseconds
-- ARGV[5..]  the fingerprints
-- Returns what stood in each key before, nil where nothing did.

local before = redis.call('GET', KEYS[1])
local time = ARGV[2]
if before then
  local latest = string.match(before, '^%d+')
  if tonumber(latest) > tonumber(time) then time = latest end
end
redis.call('SET', KEYS[1], time .. '/' .. ARGV[1], 'PX', ARGV[3])

local answer = { before }
for i = 2, #KEYS do
  answer[i] = redis.call('SET', KEYS[i], ARGV[i + 3], 'PX', ARGV[4], 'NX', 'GET')
end
return answer
