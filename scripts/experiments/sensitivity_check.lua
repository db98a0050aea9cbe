-- Is the sensitivity scan right? Some of its points against the long way round: the model masked by a plan of its own and
-- evaluated whole on the same images.
--
--   espalier run scripts/experiments/sensitivity_check.lua [MODEL.onnx [DATASET [METHOD [IMAGES [POINTS [SEED]]]]]]
--
-- The default is the sample LeNet on Fashion-MNIST by wsp, 1000 images, 5 points chosen at random. Fails when a loss differs
-- by more than 1e-6 relative, or an accuracy at all by more than one image: behind a cut some layers run by other kernels,
-- which round otherwise.
local esp = require "espalier"

local HERE = arg[0]:match("^(.*)/[^/]*$") or "."
local MODEL = arg[1] or HERE .. "/../../sample_models/lenet5.onnx"
local DATASET = arg[2] or "fashion-mnist"
local METHOD = arg[3] or "wsp"
local IMAGES = tonumber(arg[4] or 1000)
local POINTS = tonumber(arg[5] or 5)
local SEED = tonumber(arg[6] or 1)

local model = esp.load(MODEL)
local data = esp.data(DATASET, "test")
local scan = model:sensitivity { data = data, images = IMAGES, seed = SEED, method = METHOD }
local subset = data:subset(IMAGES, SEED)

local curves = {}
for _, curve in ipairs(scan.curves) do
    if #curve.points > 0 then
        curves[#curves + 1] = curve
    end
end

local rows, worst = { { "part", "ratio", "scan", "masked and whole", "difference", "top-1", "top-1" } }, 0
local function compare(name, ratio, point, result)
    local difference = math.abs(point.loss - result.loss) / result.loss
    worst = math.max(worst, difference)
    rows[#rows + 1] = { name, ratio, ("%.9g"):format(point.loss), ("%.9g"):format(result.loss), ("%.1e"):format(difference),
        ("%.2f"):format(point.top1.percent), ("%.2f"):format(result.top1) }
    if math.abs(point.top1.percent - result.top1) > 100.5 / IMAGES then
        error(name .. ": top-1 differs")
    end
end

math.randomseed(SEED)
compare("(whole)", "", scan.baseline, model:evaluate { data = subset })
for _ = 1, POINTS do
    local curve = curves[math.random(#curves)]
    local point = curve.points[math.random(#curve.points)]
    local rules = { { layer = "*", ratio = 0 } }
    for _, layer in ipairs(curve.layers) do
        rules[#rules + 1] = { layer = layer, ratio = point.ratio }
    end
    local masked = model:preview { method = METHOD, ratio = 0, rules = rules }:masked()
    compare(curve.name, ("%.2f"):format(point.ratio), point, masked:evaluate { data = subset })
end
print(esp.table(rows))
print(("%d points in %.1f s; largest relative difference of the loss %.1e"):format(scan.measured, scan.seconds, worst))
if worst > 1e-6 then
    error("the scan and the long way round differ")
end
