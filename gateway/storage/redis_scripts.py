"""What must happen in Redis at once or not at all, as Lua that the server runs between two other commands.

Decides nothing that the store's documentation does not say. A script must never read a key that it was not given,
nor write before it knows that it will finish.
"""

# KEYS: fence, ids, changes, purged, then entry and document of each. ARGV: the write's number, length of the stream,
# position seen, now, then of each: name, value, document, lifetime in ms, expiry, variants.
#
# A number below the fence is a write that its sender has given up and followed by others; the very number is one that
# was sent twice. A purge that the sender has not seen may mean entries among these.
PUT = """
local fence = tonumber(redis.call('GET', KEYS[1]) or '0')
if tonumber(ARGV[1]) <= fence then return 'LATE' end
local purged = redis.call('GET', KEYS[4])
if purged and ARGV[3] ~= '' then
  local a, b = string.match(purged, '(%d+)-(%d+)')
  local c, d = string.match(ARGV[3], '(%d+)-(%d+)')
  a, b, c, d = tonumber(a), tonumber(b), tonumber(c), tonumber(d)
  if a > c or (a == c and b > d) then return 'OUTDATED' end
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', 86400)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[4])
local put = {}
for k = 5, #KEYS, 2 do
  local a = 5 + (k - 5) * 3
  if tonumber(ARGV[a + 3]) <= 0 then
    redis.call('DEL', KEYS[k], KEYS[k + 1])
    redis.call('ZREM', KEYS[2], ARGV[a])
  else
    redis.call('SET', KEYS[k], ARGV[a + 1], 'PX', ARGV[a + 3])
    redis.call('SET', KEYS[k + 1], ARGV[a + 2], 'PX', ARGV[a + 3])
    redis.call('ZADD', KEYS[2], ARGV[a + 4], ARGV[a])
    put[ARGV[a + 5]] = (put[ARGV[a + 5]] or '') .. ARGV[a]
  end
end
for variants, ids in pairs(put) do
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[2], '*', 'op', 'put', 'ids', ids, 'variants', variants)
end
return 'OK'
"""

# KEYS: fence, ids, changes, then entry and document of each. ARGV: the write's number, length of the stream, names.
# Of several who delete one entry, only the first makes a change of it.
DELETE = """
local fence = tonumber(redis.call('GET', KEYS[1]) or '0')
if tonumber(ARGV[1]) <= fence then return 'LATE' end
redis.call('SET', KEYS[1], ARGV[1], 'EX', 86400)
local gone = {}
for a = 3, #ARGV do
  local k = 4 + (a - 3) * 2
  local keys = redis.call('DEL', KEYS[k], KEYS[k + 1])
  if redis.call('ZREM', KEYS[2], ARGV[a]) + keys > 0 then gone[#gone + 1] = ARGV[a] end
end
if #gone > 0 then
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[2], '*', 'op', 'delete', 'ids', table.concat(gone))
end
return 'OK'
"""

# KEYS: changes.
POSITION = """
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if newest[1] then return newest[1][1] end
return redis.call('XADD', KEYS[1], '*', 'op', 'begin')
"""

# KEYS: changes, purged, purges. ARGV: op, body, length of the stream.
ANNOUNCE = """
local at = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 'op', ARGV[1], 'body', ARGV[2])
if ARGV[1] == 'purge' then
  redis.call('SET', KEYS[2], at)
  redis.call('HSET', KEYS[3], at, ARGV[2])
end
return at
"""

# KEYS: journal, changes. ARGV: value, number before it ('' for any), how many to keep, name, length of the stream.
# The very value under the number it should get is this call, sent twice.
APPEND = """
local top = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local last = top and tonumber(string.match(top[1], '^(%d+)')) or 0
if ARGV[2] ~= '' and tonumber(ARGV[2]) ~= last then
  if top and last == tonumber(ARGV[2]) + 1 and top[2][2] == ARGV[1] then return last end
  return 0
end
local id = string.format('%.0f-0', last + 1)
redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[3], id, 'value', ARGV[1])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], '*', 'op', 'journal', 'body', ARGV[4])
return last + 1
"""
