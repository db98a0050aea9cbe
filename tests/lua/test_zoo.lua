-- The networks of the zoo are the published ones: their parameters and MACs are torchvision's, layer for layer.
local esp = require "espalier"
local test = require "helpers"

-- Sizes of torchvision's models (their pages give them rounded: 138.36 M and 15.47 G for VGG16); MACs of convolutions and
-- dense layers at 224 x 224.
for name, expected in pairs {
    vgg16 = { 138357544, 15470264320, 16 },
    vgg19 = { 143667240, 19632062464, 19 },
    resnet50 = { 25557032, 4089184256, 54 },
    densenet121 = { 7978856, 2834161664, 121 },
    densenet201 = { 20013928, 4291365888, 201 },
} do
    local model = esp.zoo[name] { seed = false }
    local counts = model:counts()
    test.equal(counts.params, expected[1], name .. ": parameters")
    test.equal(counts.macs, expected[2], name .. ": MACs")
    test.equal(#model:layers(), expected[3], name .. ": layers with weights")
end

-- He et al. 2016 give 0.27 M and 0.85 M without the projection shortcuts (2.7 k, and the batch-norm behind them)
test.equal(esp.zoo.cifar_resnet { seed = false }:counts().params, 269722 + 16 * 32 + 32 * 64 + 2 * (32 + 64), "ResNet-20")
test.equal(esp.zoo.lenet5 { seed = false }:counts().params, 431080, "LeNet-5 of Caffe")

-- the stride of a stage sits in its 3x3 convolution (v1.5): the 1x1 before it still sees the larger image
local function layer_of(model, name)
    for _, layer in ipairs(model:layers()) do
        if layer.name == name then
            return layer
        end
    end
    error("no layer " .. name)
end
local resnet = esp.zoo.resnet50 { seed = false }
test.equal(layer_of(resnet, "layer2.0.conv1").macs, 256 * 128 * 56 * 56, "MACs of layer2.0.conv1")
test.equal(layer_of(resnet, "layer2.0.conv2").macs, 128 * 128 * 9 * 28 * 28, "MACs of layer2.0.conv2")

-- options: classes, size of the input, a seed that decides the weights
local small = { input = { 1, 64, 48 }, classes = 7, seed = 1 }
for _, name in ipairs { "resnet50", "densenet121" } do
    local model = esp.zoo[name](small)
    test.equal(model:difference(esp.zoo[name](small)), 0, name .. ": one seed, one network")
    test.is_true(model:difference(esp.zoo[name] { input = { 1, 64, 48 }, classes = 7, seed = 2 }) > 0, name .. ": seeds differ")
    local layers = model:layers()
    test.equal(layers[#layers].filters, 7, name .. ": classes")
    test.equal(layers[1].channels, 1, name .. ": channels of the input")
end
local vgg = esp.zoo.vgg16 { input = { 3, 32, 64 }, classes = 3, seed = false, dropout = true }
test.equal(layer_of(vgg, "classifier.0").channels, 512 * 1 * 2, "what the last pooling leaves of 32 x 64")
test.equal(layer_of(vgg, "classifier.6").filters, 3, "classes")

test.fails("at least 32", esp.zoo.resnet50, { input = { 3, 16, 16 } })
test.fails("unknown key 'clases'", esp.zoo.vgg16, { clases = 3 })
