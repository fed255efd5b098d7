-- The exchange of redisstore.Store: makes the operations, and returns the records that have changed since the cursor.
-- cluster.Memory does the same in Go.
--
-- KEYS: meta (hash: epoch, seq, born), records (hash: key -> "rev at ends value"), order (sorted set: key by revision),
--       leases (hash: key -> "fence ends holder"), ends (sorted set: "r", "l" or "d" and key, by end in ms),
--       draws (hash: key -> "ends" and, for each node with a part of this shared limit, "holder base used part want ends")
-- ARGV: epoch, cursor, limit, channel, then six for each operation: kind, key, value, rev, age in ms, ttl in ms;
--       a negative age is the time of the event itself; a kind that ends with ! is urgent: the record that it writes is
--       published on the channel, as JSON: [epoch, key, record...]; without a channel, nothing is published
-- Each key has an element '', which shows that Redis has not evicted it for want of memory.
-- Returns: {epoch, cursor, 1 if more, now in ms, {result...}, {key, record...}}
-- The result of share is a text, "part target used own" (cluster.Drawn).
local meta, records, order, leases, ends, draws = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local function text(n) return string.format('%.0f', n) end

local t = redis.call('TIME')
local us = t[1] * 1000000 + t[2]
local now = math.floor(us / 1000)
local m = redis.call('HMGET', meta, 'epoch', 'seq', 'born')
local epoch, seq, born = m[1], tonumber(m[2] or 0) or 0, tonumber(m[3] or 0) or 0
local cursor, limit = tonumber(ARGV[2]), tonumber(ARGV[3])
redis.call('HSET', meta, 'seq', text(seq)) -- Redis refuses the first write if it is full, but none after others
local written = seq
local complete = epoch and redis.call('HGET', records, '') and redis.call('ZSCORE', order, '') and
  redis.call('HGET', leases, '') and redis.call('ZSCORE', ends, '') and redis.call('HGET', draws, '')
if not complete then -- no data yet, or only a part
  redis.call('DEL', records, order, leases, ends, draws)
  redis.call('HSET', records, '', '')
  redis.call('HSET', leases, '', '')
  redis.call('HSET', draws, '', '')
  redis.call('ZADD', order, 0, '')
  redis.call('ZADD', ends, '+inf', '')
end
if not complete or (ARGV[1] == epoch and cursor > seq) then -- the store may have lost data
  seq = math.max(now * 1000, cursor, seq + 1)
  epoch, born = text(seq), now
  redis.call('HSET', meta, 'epoch', epoch, 'born', text(born))
end
if ARGV[1] ~= epoch then cursor = 0 end

for _, member in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, 100)) do
  local key = string.sub(member, 2)
  local sort = string.sub(member, 1, 1)
  if sort == 'l' then
    redis.call('HDEL', leases, key)
  elseif sort == 'd' then
    redis.call('HDEL', draws, key)
  else
    redis.call('HDEL', records, key)
    redis.call('ZREM', order, key)
  end
  redis.call('ZREM', ends, member)
end

local function lease(key)
  local l = redis.call('HGET', leases, key) or ''
  local fence, till, holder = string.match(l, '^(%d+) (%d+) (.*)$') -- nil for one that is broken, as for none
  if not till or tonumber(till) <= now then return nil end
  return tonumber(fence), holder
end

local function unlease(key)
  redis.call('HDEL', leases, key)
  redis.call('ZREM', ends, 'l' .. key)
end

local function record(key)
  local r = redis.call('HGET', records, key) or ''
  local rev, at, till, value = string.match(r, '^(%d+) (%d+) (%d+) (.*)$')
  if not till then return nil end -- there is none, or it is broken
  till = tonumber(till)
  if till > 0 and till <= now then return nil end
  return tonumber(rev), tonumber(at), value
end

local function write(key, value, at, ttl)
  seq = seq + 1
  local till = 0
  if ttl > 0 then
    till = now + ttl
    redis.call('ZADD', ends, till, 'r' .. key)
  else
    redis.call('ZREM', ends, 'r' .. key)
  end
  redis.call('HSET', records, key, text(seq) .. ' ' .. text(at) .. ' ' .. text(till) .. ' ' .. value)
  redis.call('ZADD', order, seq, key)
  return seq
end

-- turn is the function turn of package cluster.
local function turn(key, holder)
  local h, s = 0, holder .. ' ' .. key .. ' ' .. text(math.floor(now / 4000))
  for i = 1, #s do h = (h * 48271 + string.byte(s, i)) % 2147483647 end
  h = h % 16777213
  return h * h % 2147483647
end

-- share makes a cluster.Draw, as the method draw of cluster.drawRecord does.
local function share(key, value, keep, ttl)
  local holder, daily, limit, used, part, want, young =
    string.match(value, '^(%S+) (%d) (%d+) (%d+) (%d+) (%d+) (%d+)$')
  if not holder then return '0 0 0 0' end
  limit, used, part, want = tonumber(limit), tonumber(used), tonumber(part), tonumber(want)
  local own = 0 -- what the holder has used for good
  if daily == '1' then own = used end
  local till, entries = string.match(redis.call('HGET', draws, key) or '0', '^(%d+)(.*)$')
  if not till or tonumber(till) <= now then entries = '' end
  local out, others, base, parts, total, wanted = {text(now + keep)}, {}, 0, 0, 0, 0
  for entry, h, b, u, p, w, e in string.gmatch(entries, '((%S+) (%d+) (%d+) (%d+) (%d+) (%d+))') do
    b = tonumber(b)
    local live = tonumber(e) > now
    if h == holder then
      own = math.max(own, b)
    elseif live or b > 0 then
      out[#out + 1] = entry
      base = base + b
      if live then
        parts, total, w = parts + tonumber(p), total + tonumber(u), tonumber(w) - b
        others[#others + 1] = {h, w, turn(key, h)}
        wanted = wanted + w
      else
        parts, total = parts + b, total + b
      end
    end
  end
  if daily == '1' then used = own end
  part, want = math.max(part, own), math.max(want, own)
  local rest, target = math.max(limit - base - own, 0), want
  if wanted + want - own > rest then -- the rest is divided as in draw
    local mine = {holder, want - own, turn(key, holder)}
    others[#others + 1] = mine
    table.sort(others, function(a, b)
      if a[2] ~= b[2] then return a[2] < b[2] end
      if a[3] ~= b[3] then return a[3] < b[3] end
      return a[1] < b[1]
    end)
    for i, e in ipairs(others) do
      local s = math.min(e[2], math.floor(rest / (#others + 1 - i)))
      rest = rest - s
      if e == mine then target = own + s end
    end
  end
  local most = math.min(target, part + math.max(limit - parts - part, 0))
  if now - born < 4000 then most = math.min(most, tonumber(young)) end -- settling
  part = math.max(part, most)
  if used > 0 or part > 0 or want > 0 then
    out[#out + 1] = string.format('%s %.0f %.0f %.0f %.0f %.0f', holder, own, used, part, want, now + ttl)
  end
  if #out > 1 then
    redis.call('HSET', draws, key, table.concat(out, ' '))
    redis.call('ZADD', ends, now + keep, 'd' .. key)
  else
    redis.call('HDEL', draws, key)
    redis.call('ZREM', ends, 'd' .. key)
  end
  return string.format('%.0f %.0f %.0f %.0f', part, target, total + used, used)
end

local function operate(kind, key, value, rev, age, ttl)
  if kind == 'put' then
    local rev, was, held = record(key)
    local at = now - age
    if age < 0 then at = math.min(-age, now) end -- the time of the event itself
    if was and was > at then return 0 end
    if was == at and held == value then return rev end
    return write(key, value, at, ttl)
  elseif kind == 'swap' then
    if (record(key) or 0) ~= rev then return 0 end
    return write(key, value, now, ttl)
  elseif kind == 'acquire' then
    local fence, holder = lease(key)
    if fence and holder ~= value or now - born < ttl or (record(key) or 0) > rev then return 0 end
    seq = seq + 1
    redis.call('HSET', leases, key, text(seq) .. ' ' .. text(now + ttl) .. ' ' .. value)
    redis.call('ZADD', ends, now + ttl, 'l' .. key)
    return seq
  end
  local fence = lease(key) -- free, settle and void
  if not fence or kind ~= 'void' and fence ~= rev then return 0 end
  unlease(key)
  if kind == 'settle' then return write(key, value, now, ttl) end
  return fence
end

local results, news = {}, {epoch}
for i = 5, #ARGV, 6 do
  local kind, urgent = string.gsub(ARGV[i], '!$', '')
  local key, age, ttl = ARGV[i + 1], tonumber(ARGV[i + 4]), tonumber(ARGV[i + 5])
  if kind == 'share' then
    results[#results + 1] = share(key, ARGV[i + 2], age, ttl)
  else
    local result = operate(kind, key, ARGV[i + 2], tonumber(ARGV[i + 3]), age, ttl)
    results[#results + 1] = text(result)
    if urgent > 0 and result > 0 then
      news[#news + 1] = key
      news[#news + 1] = redis.call('HGET', records, key)
    end
  end
end
if seq ~= written then redis.call('HSET', meta, 'seq', text(seq)) end
if #news > 1 and ARGV[4] ~= '' then
  redis.pcall('PUBLISH', ARGV[4], cjson.encode(news)) -- pcall: the user may lack the permission
end

local changed, more, last = {}, 0, seq
local keys = redis.call('ZRANGEBYSCORE', order, '(' .. text(cursor), '+inf', 'LIMIT', 0, limit + 1)
if #keys > limit then
  more = 1
  keys[limit + 1] = nil
  last = tonumber(redis.call('ZSCORE', order, keys[limit]))
end
for from = 1, #keys, 1000 do -- unpack takes a limited number
  local to = math.min(from + 999, #keys)
  for i, r in ipairs(redis.call('HMGET', records, unpack(keys, from, to))) do
    local till = r and tonumber(string.match(r, '^%d+ %d+ (%d+) '))
    if till and (till == 0 or till > now) then
      changed[#changed + 1] = keys[from + i - 1]
      changed[#changed + 1] = r
    end
  end
end
return {epoch, text(last), more, text(now), results, changed}
