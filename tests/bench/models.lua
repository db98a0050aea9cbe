-- Writes networks of the zoo, with random weights, into the current directory: what the benchmarks run.
--
--   espalier run models.lua vgg16 resnet50 densenet121 densenet201 resnet20 lenet5
local esp = require "espalier"

local builders = {
    resnet20 = function() return esp.zoo.cifar_resnet { seed = 1 } end,
    lenet5 = function() return esp.zoo.lenet5 { seed = 1 } end,
}

for _, name in ipairs(arg) do
    local build = builders[name] or function() return esp.zoo[name] { seed = 1 } end
    build():save(name .. ".onnx")
end
