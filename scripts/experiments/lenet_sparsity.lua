-- Accuracy against sparsity: how much of a LeNet self-grouping can take away, from 95 to 99 % of all connections.
--
--   espalier run scripts/experiments/lenet_sparsity.lua [LOCAL_EPOCHS [EPOCHS [IMAGES]]]
--
-- The sample LeNet-5 on Fashion-MNIST. Its connections go in steps of 10 points to 90 %, with LOCAL_EPOCHS (1) of training
-- after each step, where the layers are grouped again; then to 95, 96, ... 99 %, with LOCAL_EPOCHS and EPOCHS (3) after
-- each, which makes one row of the table. The first convolution is left whole, as published. Nothing is chosen by looking
-- at the test images: the newest weights count, and the test images only measure them.
local esp = require "espalier"

local HERE = arg[0]:match("^(.*)/[^/]*$") or "."
local LOCAL_EPOCHS, EPOCHS = tonumber(arg[1] or 1), tonumber(arg[2] or 3)
local IMAGES = tonumber(arg[3] or 0)
local RATIOS = { 0.95, 0.96, 0.97, 0.98, 0.99 }
local GROUPS = 16

local training, test = esp.data("fashion-mnist", "train"), esp.data("fashion-mnist", "test")
local model = esp.load(HERE .. "/../../sample_models/lenet5.onnx")

-- The share of the connections of all layers that are pruned.
local function sparsity(record)
    return 100 * record.pruned
end

-- From `start` to a ratio: the masked model after local and global training, and the record of its last step.
local function prune(start, ratio, step, epochs)
    local masked, result = start:prune_gradually {
        plan = { method = "sg", mode = "faithful", ratio = ratio, groups = GROUPS },
        schedule = "lg", step = step, local_epochs = LOCAL_EPOCHS, epochs = epochs,
        data = training, batch = 128, lr = 0.01, seed = 1, train_limit = IMAGES,
        on_event = function(event)
            if event.event == "pruned" then
                print(("ratio %.2f: %.2f %% of the connections are gone"):format(event.ratio, sparsity(event)))
            end
        end,
    }
    return masked, result.records[#result.records]
end

local dense = model:evaluate { data = test }
local rows = { { "pruned", "connections", "groups", "params", "MACs", "top-1", "±", "change" } }
local total = model:counts()
rows[2] = { "0 %", "", "", esp.count(total.params), esp.count(total.macs), ("%.2f %%"):format(dense.top1),
    ("%.2f"):format(dense.top1_error), "" }

model = prune(model, 0.9, 0.1, 0)
for _, ratio in ipairs(RATIOS) do
    local record
    model, record = prune(model, ratio, 1, EPOCHS)
    local result = model:evaluate { data = test }
    rows[#rows + 1] = {
        ("%.0f %%"):format(100 * ratio), ("%.2f %% gone"):format(sparsity(record)), record.executed_groups,
        esp.count(record.params), esp.count(record.macs), ("%.2f %%"):format(result.top1),
        ("%.2f"):format(result.top1_error), ("%+.2f"):format(result.top1 - dense.top1),
    }
end
print()
print(esp.table(rows))
