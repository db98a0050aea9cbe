-- Which criterion finds the filters that can go? Every criterion at one ratio, with and without repair, on one model.
--
--   espalier run scripts/experiments/criteria.lua [MODEL.onnx [DATASET [RATIO [IMAGES [TEST [SEED]]]]]]
--
-- Method `filter`, scope `layer`: every criterion cuts as much of the same layers. The columns are top-1 accuracy of the cut
-- model as it is, with batch-norm statistics measured again, and with layers solved for their old outputs: all on IMAGES images
-- for training (512), chosen by SEED, as are those that criteria with data look at. Accuracy is on the first TEST images for
-- testing (0: all). The default is the sample ResNet on Fashion-MNIST at ratio 0.3.
local esp = require "espalier"

local HERE = arg[0]:match("^(.*)/[^/]*$") or "."
local MODEL = arg[1] or HERE .. "/../../sample_models/resnet20.onnx"
local DATASET = arg[2] or "fashion-mnist"
local RATIO = tonumber(arg[3] or 0.3)
local IMAGES = tonumber(arg[4] or 512)
local TEST = tonumber(arg[5] or 0)
local SEED = tonumber(arg[6] or 0)

local training = esp.data(DATASET, "train")
local test = esp.data(DATASET, "test")
local model = esp.load(MODEL)

local function top1(subject)
    return ("%.2f"):format(subject:evaluate { data = test, limit = TEST }.top1)
end

local function row(criterion)
    local preview = model:preview({ method = "filter", criterion = criterion.name, ratio = RATIO, seed = SEED },
        { data = training, images = IMAGES, seed = SEED })
    local cut = preview:cut()
    local counts = cut:counts()
    local recalibrated = cut:recalibrate { data = training, images = IMAGES, seed = SEED }
    local solved = preview:reconstruct { data = training, images = IMAGES, seed = SEED }
    return { criterion.name, esp.count(counts.params), esp.count(counts.macs), top1(cut), top1(recalibrated), top1(solved) }
end

local counts = model:counts()
local rows = { { "criterion", "params", "MACs", "cut", "recalibrated", "reconstructed" } }
rows[2] = { "(original)", esp.count(counts.params), esp.count(counts.macs), top1(model), "", "" }
local silent = {}
for _, criterion in ipairs(esp.criteria()) do
    local is_done, result = pcall(row, criterion)
    if is_done then
        rows[#rows + 1] = result
    elseif result.code == "unsupported" then -- it says nothing of this model's layers
        silent[#silent + 1] = tostring(result.message)
    else
        error(result, 0)
    end
end
print(("top-1 on %s images, ratio %g, calibrated on %d\n"):format(TEST > 0 and TEST or #test, RATIO, IMAGES))
print(esp.table(rows))
for _, message in ipairs(silent) do
    print(message)
end
