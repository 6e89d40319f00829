"""What Redis does in one step, in Lua. A user's live events are two lists, oldest first: history, and other kinds.

The values are JSON lists whose third field is the time.
"""

_INSERT = """
local function insert(list, time, packed, most)
  local later = {}
  while true do
    local last = redis.call('LINDEX', list, -1)
    if not last or cjson.decode(last)[3] <= time then break end
    later[#later + 1] = redis.call('RPOP', list)
  end
  redis.call('RPUSH', list, packed)
  for n = #later, 1, -1 do redis.call('RPUSH', list, later[n]) end
  redis.call('LTRIM', list, -most, -1)
end
"""

APPEND = (
    _INSERT
    + """
local found, token, ids_ms, most = {}, ARGV[1], ARGV[2], tonumber(ARGV[3])
for n = 1, #KEYS / 2 do
  local id, list = KEYS[2 * n - 1], KEYS[2 * n]
  local time, packed, lasts_ms = tonumber(ARGV[3 * n + 1]), ARGV[3 * n + 2], tonumber(ARGV[3 * n + 3])
  local own = token .. n
  if redis.call('SET', id, own, 'NX', 'PX', ids_ms) then
    insert(list, time, packed, most)
    if lasts_ms > 0 then redis.call('PEXPIRE', list, lasts_ms) end
    found[n] = 1
  else
    found[n] = redis.call('GET', id) == own and 1 or 0
  end
end
return found
"""
)
"""KEYS: id and list of each event. ARGV: a name of the call, ms that ids last, most events of a list; then of each
event its time, its value and the ms that its list lasts (0: for ever). A call that comes twice, because its answer was
lost, answers the same again."""

MERGE = (
    _INSERT
    + """
local moved = 0
for n = 1, #KEYS / 2 do
  local events = redis.call('LRANGE', KEYS[2 * n - 1], 0, -1)
  for _, packed in ipairs(events) do insert(KEYS[2 * n], cjson.decode(packed)[3], packed, tonumber(ARGV[1])) end
  redis.call('DEL', KEYS[2 * n - 1])
  moved = moved + #events
end
return moved
"""
)
"""KEYS: pairs of lists, from and to. ARGV: most events of a list."""

LOAD = """
redis.call('SET', KEYS[1], ARGV[1])
for n = 2, #KEYS do
  while true do
    local first = redis.call('LINDEX', KEYS[n], 0)
    if not first or cjson.decode(first)[3] > tonumber(ARGV[2]) then break end
    redis.call('LPOP', KEYS[n])
  end
end
"""
"""KEYS: place of what is loaded, then the lists. ARGV: what is loaded, and the time up to which live events go."""

PUT_ITEMS = """
local version = redis.call('INCR', KEYS[1])
for n = 1, #ARGV, 2 do
  redis.call('ZADD', KEYS[2], version, ARGV[n])
  redis.call('HSET', KEYS[3], ARGV[n], ARGV[n + 1])
end
return version
"""
"""KEYS: the version of the items, fields by version, values of fields. ARGV: of each field its name and its value."""

ITEMS_SINCE = """
local newest, since = tonumber(redis.call('GET', KEYS[1]) or '0'), tonumber(ARGV[1])
if since > newest then since = 0 end
local names, values = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. since, '+inf'), {}
for n, name in ipairs(names) do values[n] = redis.call('HGET', KEYS[3], name) end
return {newest, names, values}
"""
"""KEYS: as of PUT_ITEMS. ARGV: the version that is known."""
