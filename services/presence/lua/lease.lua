-- The lease of one edge: renews it, or replaces it in two steps around a full report.
--
-- An incarnation is what an edge has had from one full report to the next. A session counts when its incarnation is `floor` or
-- a later one, so that the sessions of a full report count from the moment they are written, and those that it
-- lacks end when it commits. Incarnations are numbered by the clock: numbers do not come back when the lease is lost.
--
-- KEYS[1]  hash of the lease: `floor`, `next` (the latest incarnation that has begun), `reported` (the last report),
--          `expires` (when the lease runs out), `refresh` (when everything is wanted again), `ended` (when what is below
--          the floor ended); all milliseconds since 1970
-- ARGV[1]  `renew`, `begin` or `commit`
-- ARGV[2]  now, milliseconds since 1970 (integer)
-- ARGV[3]  time to live of the hash, milliseconds (integer)
-- ARGV[4]  renew, commit: length of the lease, milliseconds (integer)
-- ARGV[5]  commit: the incarnation that `begin` returned (integer)
-- ARGV[6]  commit: when everything is wanted again, milliseconds since 1970 (integer)
-- Returns the incarnation to write sessions with; nothing when a full report is wanted, because there is no lease, or because
-- what `begin` noted is lost.

local lease, step, now, ttl = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3]
local function number(field) return tonumber(redis.call('HGET', lease, field) or 0) end
local function integer(value) return string.format('%.0f', value) end
local alive = number('expires') > now

if step == 'begin' then
  local incarnation = integer(math.max(now, number('next') + 1))
  redis.call('HSET', lease, 'next', incarnation)
  redis.call('PEXPIRE', lease, ttl)
  return incarnation
end

if step == 'renew' then
  if not alive or number('refresh') <= now then return false end
  redis.call('HSET', lease, 'reported', ARGV[2], 'expires', integer(now + tonumber(ARGV[4])))
  redis.call('PEXPIRE', lease, ttl)
  return redis.call('HGET', lease, 'floor')
end

-- Who lost the note may have lost sessions that came after it, too.
if number('next') < tonumber(ARGV[5]) then return false end
-- Of two full reports at once the later stays.
if tonumber(ARGV[5]) > number('floor') then
  local ended = alive and ARGV[2] or redis.call('HGET', lease, 'reported') or '0'
  redis.call('HSET', lease, 'floor', ARGV[5], 'ended', ended, 'refresh', ARGV[6])
end
redis.call('HSET', lease, 'reported', ARGV[2], 'expires', integer(now + tonumber(ARGV[4])))
redis.call('PEXPIRE', lease, ttl)
return ARGV[5]
