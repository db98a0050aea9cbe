-- Makes the pruned sibling of each sample model of this directory, and the table of what they are:
--
--   espalier run sample_models/prune_samples.lua [lenet5|resnet20|vgg8|densenet28] [EPOCHS]
--
-- One shot of pruning, then fine-tuning on all training images with the original as the teacher; the newest weights count,
-- and the test images measure them once. NAME_pruned.onnx is written beside this script. A self-grouped network is tuned in
-- its masked form and cut afterwards. Latencies are of this machine, one image, both networks in turns.
local esp = require "espalier"

local DIRECTORY = arg[0]:match("^(.*)/[^/]*$") or "."
local EPOCHS = tonumber(arg[2] or 4)

local recipes = {
    { name = "lenet5", plan = { method = "sg", ratio = 0.9, groups = 16 } },
    { name = "resnet20", plan = { method = "wsp", ratio = 0.5 } },
    { name = "vgg8", plan = { method = "sg", ratio = 0.7, groups = 8 } },
    { name = "densenet28", plan = { method = "filter", criterion = "l1", ratio = 0.4 } },
}

local training, test = esp.data("fashion-mnist", "train"), esp.data("fashion-mnist", "test")

local function prune(original, plan)
    plan.mode = "sound"
    local preview = original:preview(plan)
    local is_grouped = plan.method == "sg"
    local start = is_grouped and preview:masked() or preview:cut()
    local tuned = start:train {
        data = training, validation = false, epochs = EPOCHS, batch = 128, lr = 0.02, warmup = 0.5, nesterov = true,
        weight_decay = 5e-4, crop = 2, flip = true, seed = 1, teacher = original, distill = 0.5,
        on_epoch = function(event)
            print(("  epoch %2d/%d  loss %.4f  training top-1 %.2f %%  lr %.4f  %.0f images/s"):format(event.epoch,
                event.epochs, event.train_loss, event.train_top1, event.lr, event.images_per_s))
        end,
    }
    if is_grouped then
        -- the same masks, read back from the zeros that training has held
        tuned = tuned:preview { method = "sg", mode = "sound", ratio = 0, groups = plan.groups }:cut()
    end
    return tuned
end

local function share(part, whole)
    return ("%s (%.0f %%)"):format(esp.count(part), 100 * part / whole)
end

local rows = { { "file", "plan", "params", "MACs", "ms", "top-1", "±" } }

local function add(file, plan, model, counts, whole, ms)
    local result = model:evaluate { data = test }
    rows[#rows + 1] = {
        file, plan, share(counts.params, whole.params), share(counts.macs, whole.macs), ("%.3f"):format(ms),
        ("%.2f %%"):format(result.top1), ("%.2f"):format(result.top1_error),
    }
end

local function words(plan)
    local method = plan.criterion and ("%s %s"):format(plan.method, plan.criterion) or plan.method
    return ("%s %.1f%s"):format(method, plan.ratio, plan.groups and (", %d groups"):format(plan.groups) or "")
end

for _, recipe in ipairs(recipes) do
    if not arg[1] or arg[1] == recipe.name then
        print(recipe.name)
        local path = ("%s/%s"):format(DIRECTORY, recipe.name)
        local original = esp.load(path .. ".onnx")
        local pruned = prune(original, recipe.plan)
        local whole = original:counts()
        local before, after = original:bench { batch = 1, repeats = 200, against = pruned }
        add(recipe.name, "", original, whole, whole, before.median_ms)
        add(recipe.name .. "_pruned", words(recipe.plan), pruned, pruned:counts(), whole, after.median_ms)
        pruned:save(path .. "_pruned.onnx")
    end
end
if #rows == 1 then
    error(("no recipe for '%s', expected lenet5, resnet20, vgg8 or densenet28"):format(arg[1]), 0)
end
print()
print(esp.table(rows))
