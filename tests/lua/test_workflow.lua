-- The whole way in Lua: build, train, preview, cut, fine-tune, save, load.
local esp = require "espalier"
local test = require "helpers"

local SIZE = 8
local spec = test.two_class_set(SIZE)
local training, testing = esp.data(spec, "train"), esp.data(spec, "test")
test.equal(#training, 64, "training images")
test.equal(testing:info().channels, 1, "channels")

local model = test.small_network(esp, SIZE)
test.equal(#model:layers(), 4, "layers")
test.equal(model:layers()[2].filters, 12, "filters of block.conv1")
-- by hand: stem 8*9, batch-norm 2*8, conv1 12*8*9+12, conv2 8*12*9+8, fc 8*2+2
test.equal(model:counts().params, 72 + 16 + 876 + 872 + 18, "parameters")

local reports = {}
local trained, result = model:train {
    data = training, validation = testing, epochs = 6, batch = 16, lr = 0.05, seed = 5,
    on_epoch = function(report) reports[#reports + 1] = report end,
}
test.equal(#reports, 6, "epoch reports")
test.equal(result.epochs_done, 6, "epochs")
test.is_true(result.best.top1 > 95, "two separable classes are learnt: top-1 " .. result.best.top1)

-- the same seed gives the same network
local again = model:train { data = training, validation = testing, epochs = 6, batch = 16, lr = 0.05, seed = 5 }
test.equal(select(1, trained:difference(again)), 0, "difference of two trainings with one seed")

for _, plan in ipairs { { method = "wsp", mode = "sound", ratio = 0.6 }, { method = "wsp", mode = "faithful", ratio = 0.3 },
    { method = "sg", mode = "sound", ratio = 0.5, groups = 3 }, { method = "sg", mode = "faithful", ratio = 0.5, groups = 3 } } do
    local what = plan.method .. " " .. plan.mode
    local preview = trained:preview(plan)
    local cut, report = preview:cut()
    test.is_true(report.largest_relative < 1e-4, what .. ": cut and masked agree")
    test.is_true(preview:masked():difference(cut) < 1e-3, what .. ": and so they do when compared here")
    test.is_true(cut:counts().params < trained:counts().params, what .. ": smaller")
    test.equal(preview:after().params, cut:counts().params, what .. ": the preview's count is the cut model's")
    local tuned = cut:train { data = training, validation = testing, epochs = 6, batch = 16, lr = 0.05, seed = 5 }
    test.equal(tuned:counts().params, cut:counts().params, what .. ": fine-tuning keeps the size")
    test.is_true(tuned:evaluate { data = testing }.top1 > 85, what .. ": and most of the accuracy")
end

-- masks are held by training, and survive a file
local masked = trained:preview { method = "sg", mode = "faithful", ratio = 0.5, groups = 3 }:masked()
masked:save("masked.onnx")
local tuned = esp.load("masked.onnx"):train { data = training, validation = testing, epochs = 1, lr = 0.05 }
local function zeros(m)
    return m:preview { method = "sg", mode = "faithful", ratio = 0, groups = 3 }:after().params
end
test.equal(zeros(tuned), zeros(masked), "surviving weights after training")
test.is_true(zeros(masked) < trained:counts().params, "masks are there")

trained:save("small.onnx")
local loaded = esp.load("small.onnx")
test.equal(select(1, loaded:difference(trained)), 0, "difference after a round trip")
test.equal(loaded:evaluate { data = testing }.top1, trained:evaluate { data = testing }.top1, "accuracy after a round trip")

local timing = loaded:bench { batch = 2, repeats = 3 }
test.equal(timing.batch, 2, "batch")
test.is_true(timing.median_ms > 0, "time passes")
test.is_true(timing.memory.peak >= timing.memory.weights and timing.memory.live > 0, "memory")
test.is_true(timing.layers == nil, "layers are not measured unless they are asked for")

local first, second = loaded:bench { repeats = 3, layers = true, against = trained }
test.is_true(#first.layers > 0 and first.layers[1].ms >= 0 and #first.layers[1].kernel > 0, "layers")
test.equal(#first.groupings, 0, "no layer is grouped")
test.equal(second.repeats, 3, "the other model runs as often")
local step = loaded:bench { batch = 4, repeats = 5, train = true }
test.is_true(step.backward_ms > 0, "a training step has a backward pass")
test.fails("unknown key 'againts'", loaded.bench, loaded, { againts = trained })
test.fails("against: expected a model", loaded.bench, loaded, { against = "small.onnx" })
