-- Known networks, with random weights or with those of a file:
--
--   esp.zoo.resnet50 { classes = 10, seed = 1 }
--   esp.zoo.vgg16_bn { weights = "vgg16_bn.safetensors" }
--
--   lenet5                                                      for small grey images
--   resnet20, resnet32, resnet44, resnet56, resnet110           for CIFAR, as published: shortcuts without parameters
--   cifar_resnet                                                the same of any depth, `blocks`; `shortcut` "projection"
--                                                               (1x1 convolutions) or "padding"
--   vgg11, vgg13, vgg16, vgg19, each also with _bn              for ImageNet, as torchvision defines them
--   resnet18, resnet34, resnet50, resnet101, resnet152
--   densenet121, densenet161, densenet169, densenet201
--   cifar_vgg, cifar_densenet                                   both for small images; `stages`; `layers`, `bottleneck`
--   mobilenet_v2, squeezenet1_0, squeezenet1_1
--
-- Each takes a table of options that may all be left out: `input` {channels, height, width}, `classes`, `seed` of the weights
-- (false: all zero, quick and enough to count), and what stands at the head of its file in zoo/ (`width`, `growth`,
-- `dropout`). Each returns a model like any other: to be trained, pruned, saved, opened in the workbench.
--
-- Nodes and parameters have torchvision's names ("layer1.0.conv1", "layer1.0.conv1.weight"), so a state_dict that was saved
-- as safetensors fits by name: `weights = path`. `strict = false` keeps the network's own (drawn) weights where the file has
-- none that fits: another number of classes, say. `prefix` stands in front of all names of the file ("module."); where all
-- share one it is found without. A second result says what was loaded, as model:load_weights does.
--
-- How weights are drawn: espalier/network.lua. Convolutions keep the variance of gradients (fan out), those of DenseNet and
-- SqueezeNet that of activations (fan in), as their authors train them.
--
-- esp.zoo.list() is a list of { name =, about = }.
local core = require "espalier.core"
local unknown = require "espalier.keys".unknown

local families = { "lenet", "resnet", "vgg", "densenet", "mobilenet", "squeezenet" }

local zoo, rows, names = {}, {}, {}
for _, family in ipairs(families) do
    for _, row in ipairs(require("espalier.zoo." .. family)) do
        local name, build, about = table.unpack(row)
        zoo[name] = build
        rows[#rows + 1] = { name = name, about = about }
        names[#names + 1] = name
    end
end

function zoo.list()
    local copy = {}
    for i, row in ipairs(rows) do
        copy[i] = { name = row.name, about = row.about }
    end
    return copy
end

return setmetatable(zoo, {
    __index = function(_, name)
        core.fail(unknown("network", name, names), 2)
    end,
})
