-- Weights by name: a network of PyTorch's in the zoo's hands, what does not fit, and names that are torchvision's.
local esp = require "espalier"
local test = require "helpers"

local data = arg[0]:match("^(.*)/") .. "/data/"
local torch_weights = data .. "torch_resnet8.safetensors"

-- torch_resnet8.py says how PyTorch made both files: the weights, and the network with them inside
local options = { input = { 3, 9, 8 }, blocks = 1, width = 4, shortcut = "padding", weights = torch_weights }
local net, report = esp.zoo.cifar_resnet(options)
local peer = esp.load(data .. "torch_resnet8.onnx")
test.equal(report.loaded, 37, "tensors") -- 7 convolutions, 4 tensors of each of their batch-norms, 2 of fc
test.equal(#report.missing + #report.unexpected + #report.mismatched, 0, "what did not fit")
test.is_true(select(2, net:difference(peer)) < 1e-5, "one network with PyTorch's")

-- the same through a model that exists
options.weights, options.seed = nil, 1
local drawn = esp.zoo.cifar_resnet(options)
local loaded, again = drawn:load_weights(torch_weights, { prefix = "module." })
test.equal(loaded:difference(net), 0, "built from the file, and loaded into a model")
test.equal(again.loaded, 37, "tensors")
test.is_true(drawn:difference(net) > 0, "the model itself stays as it was")

-- out again, and in
net:save_weights("back.safetensors")
test.equal(drawn:load_weights("back.safetensors"):difference(net), 0, "after a round trip")

-- what does not fit
local two = { input = { 3, 9, 8 }, blocks = 1, width = 4, shortcut = "padding", seed = 2, classes = 2 }
local failure = test.fails("2 of another shape (fc.weight: 10x16 instead of 2x16, fc.bias: 10 instead of 2)",
    function() esp.zoo.cifar_resnet(two):load_weights(torch_weights) end)
test.equal(failure.code, "shape", "code")
test.is_true(failure.hint:find("strict = false", 1, true), "a hint")
two.weights = torch_weights
test.fails("of another shape", esp.zoo.cifar_resnet, two)
two.strict = false
local head, partly = esp.zoo.cifar_resnet(two)
test.equal(partly.loaded, 35, "all but the last layer")
test.equal(#partly.mismatched, 2, "the last layer")
test.equal(head:layers()[8].filters, 2, "its own number of classes")
test.equal(head:difference((esp.zoo.cifar_resnet(two))), 0, "what is drawn for the rest comes from the seed")
two.seed = 3
test.is_true(head:difference((esp.zoo.cifar_resnet(two))) > 0, "another seed, another head")

local deeper = { input = { 3, 9, 8 }, blocks = 2, width = 4, shortcut = "padding", seed = false }
esp.zoo.cifar_resnet(deeper):save_weights("deeper.safetensors")
options.weights = "deeper.safetensors"
test.fails("30 unexpected (", esp.zoo.cifar_resnet, options) -- 3 blocks more of 2 convolutions with batch-norm
deeper.weights = torch_weights
test.fails("30 missing (", esp.zoo.cifar_resnet, deeper)
test.fails("no weight of this network", esp.zoo.lenet5, { weights = torch_weights, strict = false })
test.fails("missing.safetensors: No such file", esp.zoo.lenet5, { weights = "missing.safetensors" })
test.fails("no safetensors file", esp.zoo.lenet5, { weights = data .. "torch_resnet8.onnx" })
test.fails("unknown key 'strct'", net.load_weights, net, torch_weights, { strct = false })
test.fails("outside the directories", net.save_weights, net, data .. "../../../never.safetensors")

-- a file is used once: its account is that of one network
local core = require "espalier.core"
local weights = core.weights(torch_weights)
local builder, other = core.builder("a", { weights = weights }), core.builder("b", { weights = weights })
builder:parameter("fc.bias", { 10 })
test.fails("not the weights", builder.finish, builder)
test.fails("from this file already", other.parameter, other, "fc.bias", { 10 })

-- names: those of torchvision's state_dicts
local function names_of(model)
    model:save_weights("names.safetensors")
    local file <close> = assert(io.open("names.safetensors", "rb"))
    local header = file:read(string.unpack("<I8", file:read(8)))
    local names, count = {}, 0
    for name in header:gmatch('"([%w_.]+)":{"data_offsets"') do
        names[name], count = true, count + 1
    end
    return names, count
end
for name, expected in pairs {
    resnet18 = { { width = 4 }, 102, "conv1.weight", "bn1.running_var", "layer1.0.conv1.weight",
        "layer2.0.downsample.0.weight", "layer2.0.downsample.1.running_mean", "layer4.1.bn2.bias", "fc.bias" },
    resnet50 = { { width = 2 }, 267, "layer1.0.downsample.0.weight", "layer3.5.conv3.weight", "layer3.5.bn3.weight" },
    densenet121 = { { growth = 2 }, 606, "features.conv0.weight", "features.norm0.weight",
        "features.denseblock1.denselayer1.norm1.weight", "features.denseblock3.denselayer24.conv2.weight",
        "features.transition1.norm.bias", "features.transition3.conv.weight", "features.norm5.running_var", "classifier.weight" },
    mobilenet_v2 = { { width = 0.1 }, 262, "features.0.0.weight", "features.0.1.running_mean", "features.1.conv.0.0.weight",
        "features.1.conv.1.weight", "features.1.conv.2.bias", "features.2.conv.0.0.weight", "features.2.conv.1.1.weight",
        "features.17.conv.3.running_var", "features.18.0.weight", "features.18.1.weight", "classifier.1.bias" },
    squeezenet1_0 = { {}, 52, "features.0.bias", "features.3.squeeze.weight", "features.12.expand3x3.bias", "classifier.1.weight" },
    squeezenet1_1 = { {}, 52, "features.3.expand1x1.weight", "features.12.squeeze.weight", "classifier.1.bias" },
    lenet5 = { {}, 8, "conv1.weight", "fc2.bias" },
} do
    local settings = expected[1]
    settings.seed, settings.classes = false, 3
    local names, count = names_of(esp.zoo[name](settings))
    test.equal(count, expected[2], name .. ": tensors")
    for i = 3, #expected do
        test.is_true(names[expected[i]], name .. ": " .. expected[i])
    end
end

-- of VGG by its layers: its file would be large
local vgg, last = {}, nil
for _, layer in ipairs(esp.zoo.vgg16_bn { seed = false, width = 2, classes = 3, input = { 3, 32, 32 } }:layers()) do
    vgg[layer.weight], last = true, layer.weight
end
for _, name in ipairs { "features.0.weight", "features.3.weight", "features.40.weight", "classifier.0.weight", "classifier.3.weight" } do
    test.is_true(vgg[name], "vgg16_bn: " .. name)
end
test.equal(last, "classifier.6.weight", "vgg16_bn: the last layer")
