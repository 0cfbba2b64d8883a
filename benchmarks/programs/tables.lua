-- Tables, strings, closures and coroutines.
local function tree(depth)
  if depth == 0 then return {} end
  return {tree(depth - 1), tree(depth - 1), depth = depth}
end
local function count(node)
  if not node[1] then return 1 end
  return 1 + count(node[1]) + count(node[2])
end
local nodes = 0
for _ = 1, 15 do nodes = nodes + count(tree(15)) end

local words = {}
for i = 1, 150000 do
  local key = "key" .. (i * 7919 % 40000)
  words[key] = (words[key] or "") .. "x"
end
local parts = {}
for key, value in pairs(words) do parts[#parts + 1] = key:rep(2) .. value end
table.sort(parts)

local produced = 0
for i = 1, 20000 do
  local co = coroutine.wrap(function() coroutine.yield({i}) end)
  produced = produced + co()[1]
end
print(nodes, #parts, #table.concat(parts, ","), produced)
