-- A first trade-off: one model, both methods, three ratios, a little fine-tuning, one table and one figure.
--
--   espalier run scripts/experiments/first_prune.lua [MODEL.onnx [DATASET [EPOCHS [OUT.png [IMAGES]]]]]
--
-- The default is the sample ResNet on Fashion-MNIST with one epoch of fine-tuning for each row; IMAGES limits what an
-- epoch trains on. Accuracies are on the whole test set. The figure shows accuracy against multiply-accumulates.
local esp = require "espalier"

local HERE = arg[0]:match("^(.*)/[^/]*$") or "."
local MODEL = arg[1] or HERE .. "/../../sample_models/resnet20.onnx"
local DATASET = arg[2] or "fashion-mnist"
local EPOCHS = tonumber(arg[3] or 1)
local FIGURE = arg[4] or "first_prune.png"
local IMAGES = tonumber(arg[5] or 0)

local PLANS = {
    { title = "WSP", method = "wsp", mode = "sound", ratios = { 0.3, 0.5, 0.7 } },
    { title = "SG", method = "sg", mode = "sound", ratios = { 0.5, 0.7, 0.8 } },
}

local training = esp.data(DATASET, "train")
local test = esp.data(DATASET, "test")
local model = esp.load(MODEL)

local function measure(title, subject, tuned)
    local counts = subject:counts()
    local cut = subject:evaluate { data = test }
    local result = tuned and tuned:evaluate { data = test } or cut
    return {
        title = title, params = counts.params, macs = counts.macs, cut = cut.top1, top1 = result.top1,
        error = result.top1_error, ms = subject:bench { batch = 1 }.median_ms,
    }
end

-- The cut model before and after fine-tuning. A self-grouped model is tuned in its masked form and cut again afterwards: masks
-- are held, so the same weights are gone. (Tuning the cut one is as fast.)
local function prune_and_tune(plan)
    local preview = model:preview(plan)
    local cut = preview:cut()
    local start = plan.method == "sg" and preview:masked() or cut
    local tuned = start:train {
        data = training, validation = test, epochs = EPOCHS, lr = 0.02, crop = 2, flip = true, seed = 1,
        train_limit = IMAGES,
    }
    if plan.method == "sg" then
        tuned = tuned:preview { method = plan.method, mode = plan.mode, ratio = 0, groups = plan.groups }:cut()
    end
    return cut, tuned
end

local points = { measure("original", model) }
for _, plan in ipairs(PLANS) do
    for _, ratio in ipairs(plan.ratios) do
        local title = ("%s %.1f"):format(plan.title, ratio)
        print(title .. " ...")
        local cut, tuned = prune_and_tune { method = plan.method, mode = plan.mode, ratio = ratio, groups = 16 }
        local point = measure(title, cut, tuned)
        point.method = plan.title
        points[#points + 1] = point
    end
end

local original = points[1]
local rows = { { "model", "params", "", "MACs", "", "latency ms", "cut top-1", "tuned top-1", "±" } }
for _, p in ipairs(points) do
    rows[#rows + 1] = {
        p.title, esp.count(p.params), ("%.0f %%"):format(100 * p.params / original.params), esp.count(p.macs),
        ("%.0f %%"):format(100 * p.macs / original.macs), ("%.2f"):format(p.ms), ("%.2f"):format(p.cut),
        ("%.2f"):format(p.top1), ("%.2f"):format(p.error),
    }
end
print()
print(esp.table(rows))

local function series(title, style)
    local s = { title = title, style = style, x = {}, y = {}, error = {}, labels = {} }
    for _, p in ipairs(points) do
        if (p.method or "original") == title then
            local i = #s.x + 1
            s.x[i], s.y[i], s.error[i], s.labels[i] = p.macs / 1e6, p.top1, p.error, p.title
        end
    end
    return s
end

esp.plot({
    title = ("Accuracy against MACs, %g epoch%s of %s images of fine-tuning"):format(EPOCHS, EPOCHS == 1 and "" or "s",
        IMAGES > 0 and IMAGES or #training),
    x_label = "million multiply-accumulates per image",
    y_label = "top-1 accuracy, %",
    series = { series("original", "points"), series("WSP", "linespoints"), series("SG", "linespoints") },
}, FIGURE)
print("\nfigure: " .. FIGURE)
