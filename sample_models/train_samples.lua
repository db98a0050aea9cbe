-- Trains the sample models of this directory on Fashion-MNIST, from random weights:
--
--   espalier run sample_models/train_samples.lua [lenet5|resnet20] [EPOCHS]
--
-- Without a name both are trained. The files are written beside this script.
local esp = require "espalier"

local DIRECTORY = arg[0]:match("^(.*)/[^/]*$") or "."
local NORMALIZATION = { mean = { 0.2860 }, std = { 0.3530 } }

local recipes = {
    lenet5 = {
        build = function() return esp.zoo.lenet5 { seed = 1 } end,
        epochs = 16, lr = 0.05, batch = 128, weight_decay = 5e-4, crop = 2, warmup = 0.5,
    },
    resnet20 = {
        build = function() return esp.zoo.cifar_resnet { input = { 1, 28, 28 }, seed = 1 } end,
        epochs = 14, lr = 0.1, batch = 128, weight_decay = 5e-4, crop = 2, warmup = 1,
    },
}

local function train(name, epochs)
    local recipe = recipes[name] or error("no recipe for '" .. name .. "', expected lenet5 or resnet20", 0)
    epochs = epochs or recipe.epochs
    local model = recipe.build():normalize(NORMALIZATION)
    print(("%s: %s params, %s MACs, %g epochs"):format(name, esp.count(model:counts().params),
        esp.count(model:counts().macs), epochs))
    local path = ("%s/%s.onnx"):format(DIRECTORY, name)
    local trained, result = model:train {
        data = esp.data("fashion-mnist", "train"),
        validation = esp.data("fashion-mnist", "test"),
        epochs = epochs, lr = recipe.lr, batch = recipe.batch, weight_decay = recipe.weight_decay, seed = 1,
        schedule = "step", milestones = { epochs * 0.55, epochs * 0.85 }, warmup = recipe.warmup,
        crop = recipe.crop, flip = true, nesterov = true,
        on_epoch = function(e)
            print(("  epoch %2d/%d  train loss %.4f top-1 %.2f %%  test loss %.4f top-1 %.2f %%  lr %.4f  %.0f images/s")
                :format(e.epoch, e.epochs, e.train_loss, e.train_top1, e.validation.loss, e.validation.top1, e.lr,
                    e.images_per_s))
        end,
    }
    trained:save(path)
    print(("%s: top-1 %.2f %% after %d epochs, %.0f images/s, written to %s"):format(name, result.best.top1,
        result.epochs_done, result.images_per_s, path))
end

if arg[1] then
    train(arg[1], tonumber(arg[2]))
else
    train("lenet5")
    train("resnet20")
end
