-- Sensitivity from a script: the points are what the masked model gives, and the file is gone on with.
local esp = require "espalier"
local test = require "helpers"

local SIZE = 8
local spec = test.two_class_set(SIZE)
local data = esp.data(spec, "test")
local model = test.small_network(esp, SIZE)
local images = #data

local scan = model:sensitivity { data = data, images = images, ratios = { 0.3, 0.7 }, criterion = "l1", tolerance = 0.05 }
test.equal(scan.complete, true, "complete")
test.equal(scan.images, images, "images")
local checked = 0
for _, curve in ipairs(scan.curves) do
    for _, point in ipairs(curve.points) do
        local rules = {}
        for _, layer in ipairs(curve.layers) do
            rules[#rules + 1] = { layer = layer, ratio = point.ratio }
        end
        local preview = model:preview { method = "filter", criterion = "l1", ratio = 0, rules = rules }
        local result = preview:masked():evaluate { data = data }
        test.is_true(math.abs(result.loss - point.loss) < 1e-6 * result.loss, curve.name .. ": loss of the masked model")
        test.is_true(math.abs(result.top1 - point.top1.percent) < 1e-9, curve.name .. ": top-1 of the masked model")
        test.equal(preview:after().macs, point.macs, curve.name .. ": MACs")
        checked = checked + 1
    end
    if #curve.points > 0 then
        test.is_true(curve.tolerated >= 0 and curve.tolerated <= 0.7, curve.name .. ": a ratio that is tolerated")
    else
        test.is_true(#curve.note > 0, curve.name .. ": says why it has no points")
    end
end
test.is_true(checked >= 4, "points")

-- an empty file is begun
local path = "scan.jsonl"
assert(io.open(path, "wb")):close()
local first = model:sensitivity { data = data, images = images, ratios = { 0.5 }, method = "sg", groups = 3, path = path, resume = true }
test.equal(first.resumed, 0, "points in an empty file")
test.fails("exists already", model.sensitivity, model, { data = data, path = path })
local second = model:sensitivity { data = data, images = images, ratios = { 0.5 }, method = "sg", groups = 3, path = path, resume = true }
test.equal(second.measured, 0, "points measured again")
test.equal(second.curves[2].points[1].loss, first.curves[2].points[1].loss, "loss from the file")
test.fails("another plan", model.sensitivity, model, { data = data, images = images, method = "wsp", path = path, resume = true })

local one = model:sensitivity { data = data, ratios = 0.5, layers = "block.*" }
test.is_true(#one.curves < #scan.curves, "a pattern chooses parts")
test.fails("did you mean 'ratios'", model.sensitivity, model, { data = data, ratio = 0.5 })
test.fails("data is missing", model.sensitivity, model, { ratios = 0.5 })
test.fails("ratios: found 0 numbers", model.sensitivity, model, { data = data, ratios = {} })
test.fails("resume needs the file", model.sensitivity, model, { data = data, resume = true })
test.fails("unknown layer", model.sensitivity, model, { data = data, layers = { "nothing" } })
