"""The Lua scripts of the Redis queue layer. Each touches one key, so that they run on a cluster.

A queue is a list, oldest first; an element is its deadline, thirteen digits of milliseconds on Redis's own clock, then
the payload. The order is that of arrival at Redis: no sender's clock takes part.
"""

from hashlib import sha1
from typing import Final

PUSH: Final = """
-- KEYS: queue. ARGV: payload, capacity, expiry in ms, 'front' or 'back'. 1, or 0 when the queue is full.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local head = redis.call('LINDEX', KEYS[1], 0)
while head and (tonumber(string.sub(head, 1, 13)) or math.huge) <= now do
  redis.call('LPOP', KEYS[1])
  head = redis.call('LINDEX', KEYS[1], 0)
end
local element = string.format('%013d', now + ARGV[3]) .. ARGV[1]
if ARGV[4] == 'front' then
  redis.call('LPUSH', KEYS[1], element)
elseif redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[2]) then
  return 0
else
  redis.call('RPUSH', KEYS[1], element)
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""

TAKE: Final = """
-- KEYS: queue. ARGV: how many at most. The elements taken, without those that have expired.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local taken = {}
while #taken < tonumber(ARGV[1]) do
  local element = redis.call('LPOP', KEYS[1])
  if not element then
    break
  end
  -- What is no element of ours is for the reader to count.
  if (tonumber(string.sub(element, 1, 13)) or math.huge) > now then
    taken[#taken + 1] = element
  end
end
return taken
"""

DEADLINE_BYTES: Final = 13


def digest(script: str) -> str:
    """What EVALSHA calls a script by."""
    return sha1(script.encode(), usedforsecurity=False).hexdigest()


DIGESTS: Final = {script: digest(script) for script in (PUSH, TAKE)}
