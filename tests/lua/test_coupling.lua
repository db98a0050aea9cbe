-- Which channels go together, from Lua: the same list that `inspect --coupling --json` prints.
local esp = require "espalier"

local model = esp.zoo.resnet20 {}
local found = model:coupling()

assert(found.slots > found.cuttable and found.cuttable > 0)
assert(#found.pinned == 1 and found.pinned[1].reason:find("network output", 1, true))
assert(found.pinned[1].slots == found.slots - found.cuttable)

local slots, shared = 0, nil
for _, set in ipairs(found.sets) do
  if #set.written_by > 0 then slots = slots + set.channels end
  if #set.written_by > 1 then shared = shared or set end
end
assert(slots == found.slots)
assert(shared, "a residual network has channels that several layers write")
assert(#shared.read_by > 0 and #shared.tied_by > 0 and #shared.tensors > 1)
assert(shared.tied_by[1].operator == "Add")
assert(shared.tensors[1].runs[1][1] == 0)

-- errors say what is wrong
local ok, err = pcall(model.coupling, model, {inputs = "1x3x32x32"})
assert(not ok and err.message:find("input", 1, true))
