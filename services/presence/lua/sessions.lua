-- Takes sessions of one user at one edge: first what began, then what ended.
--
-- KEYS[1]  hash of the user: `seen` (when a session ended last, milliseconds) and one field per session,
--          `<edge>/<device>/<number>`, whose value is `<incarnation of the edge> <expiry, milliseconds>`
-- ARGV[1]  incarnation of the edge (integer)
-- ARGV[2]  expiry of sessions that begin, milliseconds since 1970 (integer)
-- ARGV[3]  now, milliseconds since 1970 (integer)
-- ARGV[4]  time to live of the hash, milliseconds (integer)
-- ARGV[5]  how many of the following fields began (integer); the rest ended
-- ARGV[6...]  fields
-- Says on the channel that is named like the key when there is a session more, or less.
-- Returns nothing.

local user = KEYS[1]
local incarnation, expiry, now = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local last_opened = 5 + tonumber(ARGV[5])

-- What has expired says nothing any more: whoever has a session now is seen last when that one ends.
if last_opened > 5 then
  local all = redis.call('HGETALL', user)
  for i = 1, #all, 2 do
    local ends = string.match(all[i + 1], ' (%d+)$')
    if ends and tonumber(ends) <= now then redis.call('HDEL', user, all[i]) end
  end
end

local changed = false
for i = 6, last_opened do
  local before = redis.call('HGET', user, ARGV[i])
  changed = changed or not before
  -- A report that was delayed does not take a session back to an incarnation that is over.
  if not before or tonumber(string.match(before, '^%d+')) <= incarnation then
    redis.call('HSET', user, ARGV[i], ARGV[1] .. ' ' .. expiry)
  end
end

local removed = 0
for i = last_opened + 1, #ARGV do removed = removed + redis.call('HDEL', user, ARGV[i]) end
if removed > 0 then
  local seen = tonumber(redis.call('HGET', user, 'seen') or 0)
  if now > seen then redis.call('HSET', user, 'seen', ARGV[3]) end
end

redis.call('PEXPIRE', user, ARGV[4])
if changed or removed > 0 then redis.call('SPUBLISH', user, '') end
