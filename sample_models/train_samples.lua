-- Trains the sample models of this directory on Fashion-MNIST, from random weights:
--
--   espalier run sample_models/train_samples.lua [lenet5|resnet20|vgg8|densenet28] [EPOCHS]
--
-- Without a name all are trained. The files are written beside this script.
local esp = require "espalier"

local DIRECTORY = arg[0]:match("^(.*)/[^/]*$") or "."
local NORMALIZATION = { mean = { 0.2860 }, std = { 0.3530 } }
local IMAGE = { 1, 28, 28 }

-- `best_of_test`: the epoch is chosen by the test images, else the last one counts.
local recipes = {
    {
        name = "lenet5", build = function() return esp.zoo.lenet5 { seed = 1 } end,
        epochs = 16, lr = 0.05, schedule = "step", warmup = 0.5, best_of_test = true,
    },
    {
        name = "resnet20", build = function() return esp.zoo.cifar_resnet { input = IMAGE, seed = 1 } end,
        epochs = 14, lr = 0.1, schedule = "step", warmup = 1, best_of_test = true,
    },
    {
        name = "vgg8", build = function()
            return esp.zoo.cifar_vgg { input = IMAGE, width = 32, stages = { 2, 2, 3 }, seed = 1 }
        end,
        epochs = 10, lr = 0.1, schedule = "cosine", warmup = 1,
    },
    {
        name = "densenet28", build = function() return esp.zoo.cifar_densenet { input = IMAGE, layers = 4, seed = 1 } end,
        epochs = 6, lr = 0.1, schedule = "cosine", warmup = 1,
    },
}

local function show(event)
    local tested = event.validation and ("  test loss %.4f top-1 %.2f %%"):format(event.validation.loss, event.validation.top1)
    print(("  epoch %2d/%d  train loss %.4f top-1 %.2f %%%s  lr %.4f  %.0f images/s"):format(event.epoch, event.epochs,
        event.train_loss, event.train_top1, tested or "", event.lr, event.images_per_s))
end

local function train(recipe, epochs)
    local training, test = esp.data("fashion-mnist", "train"), esp.data("fashion-mnist", "test")
    local model = recipe.build():normalize(NORMALIZATION)
    print(("%s: %s params, %s MACs, %g epochs"):format(recipe.name, esp.count(model:counts().params),
        esp.count(model:counts().macs), epochs))
    local path = ("%s/%s.onnx"):format(DIRECTORY, recipe.name)
    local is_step = recipe.schedule == "step"
    local trained, result = model:train {
        data = training, validation = recipe.best_of_test and test or false,
        epochs = epochs, lr = recipe.lr, batch = 128, weight_decay = 5e-4, seed = 1, nesterov = true,
        schedule = recipe.schedule, milestones = is_step and { epochs * 0.55, epochs * 0.85 } or nil,
        warmup = recipe.warmup, crop = 2, flip = true, on_epoch = show,
    }
    trained:save(path)
    print(("%s: top-1 %.2f %% after %d epochs, %.0f images/s, written to %s"):format(recipe.name,
        trained:evaluate { data = test }.top1, result.epochs_done, result.images_per_s, path))
end

local names, found = {}, false
for i, recipe in ipairs(recipes) do
    names[i] = recipe.name
    if not arg[1] or arg[1] == recipe.name then
        found = true
        train(recipe, tonumber(arg[2]) or recipe.epochs)
    end
end
if not found then
    error(("no recipe for '%s', expected %s"):format(arg[1], table.concat(names, ", ")), 0)
end
