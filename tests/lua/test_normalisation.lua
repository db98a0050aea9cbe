-- mean= and std= stand for the model's own normalisation wherever images are looked at.
local esp = require "espalier"
local test = require "helpers"

local spec = test.two_class_set(8)
local model = test.small_network(esp, 8) -- normalises by 0.3 and 0.3
local data = esp.data(spec, "train")
local other = { mean = "0.9", std = "0.05" }

local function with(options, more)
    for key, value in pairs(more) do
        options[key] = value
    end
    return options
end

-- the score of a filter as `explain` tells it
local function told(options)
    local preview = model:preview({ method = "filter", criterion = "activation", ratio = 0.5, seed = 2 }, options)
    return preview:explain("block.conv1", 3).writers[1].score
end

local own = model:saliency { criterion = "activation", data = data, images = 40, seed = 2 }["block.conv1"][4]
local given = model:saliency(with({ criterion = "activation", data = data, images = 40, seed = 2 }, other))["block.conv1"][4]
test.is_true(math.abs(own - given) > 1e-3, "saliency with another normalisation differs")
test.equal(told { data = data, images = 40, seed = 2 }, own, "preview by the model's own normalisation")
test.equal(told(with({ data = data, images = 40, seed = 2 }, other)), given, "preview by the one given")
test.equal(told { data = data, images = 40, seed = 2 }, own, "and back")
test.fails("mean and std are of the images in data, found no data", model.preview, model, { method = "wsp", ratio = 0.2 },
    { mean = "0.5" })
test.fails("mean 'x': 'x' is not a number", model.preview, model, { method = "filter", criterion = "activation", ratio = 0.5 },
    { data = data, mean = "x" })

-- ratios from targets rank by the same images
local function solved(options)
    return model:solve(with({ target = { params = 0.7 }, distribution = "saliency",
        plan = { method = "filter", criterion = "activation", scope = "global" } }, options))
end
local fresh = test.small_network(esp, 8)
test.fails("looks at data", fresh.solve, fresh, { target = { params = 0.7 },
    plan = { method = "filter", criterion = "activation" } })
test.is_true(solved { data = data, images = 40 }.ratio ~= nil, "solved with the model's own normalisation")
test.is_true(solved(with({ data = data, images = 40 }, other)).ratio ~= nil, "solved with the one given")

-- a scan measures, and ranks, what eval measures
local scan = model:sensitivity(with({ data = data, images = 64, ratios = { 0.5 }, criterion = "activation", seed = 2 }, other))
local whole = model:evaluate(with({ data = data }, other))
test.is_true(math.abs(scan.baseline.loss - whole.loss) < 1e-5, "loss of the whole network as eval has it")
local masks = {}
for name, options in pairs { own = {}, given = other } do
    local preview = model:preview({ method = "filter", criterion = "activation", ratio = 0, seed = 2,
        rules = { { layer = "block.conv1", ratio = 0.5 } } }, with({ data = data, images = 64, seed = 2 }, options))
    masks[name] = preview:masked():evaluate(with({ data = data }, other)).loss
end
test.is_true(masks.own ~= masks.given, "the test can tell the normalisations apart")
for _, curve in ipairs(scan.curves) do
    if curve.name == "block.conv1" then
        test.is_true(math.abs(curve.points[1].loss - masks.given) < 1e-5, "loss behind the ranking by these images")
    end
end

-- plans beside a model see images too
local seen, unseen = { method = "filter", criterion = "activation", ratio = 0.5 }, { method = "filter", ratio = 0.5 }
test.fails("looks at data", fresh.fit_plan, fresh, seen)
test.fails("looks at data", esp.plan_diff, unseen, seen, { model = fresh })
local _, misfits = fresh:fit_plan(seen, { data = data, images = 40 })
test.equal(#misfits, 0, "misfits")
test.is_true(#esp.plan_diff(unseen, seen, { model = fresh, data = data, images = 40 }).layers > 0, "layers that differ")
