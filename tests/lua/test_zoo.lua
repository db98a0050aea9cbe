-- The networks of the zoo are the published ones: their parameters and MACs are torchvision's, layer for layer.
local esp = require "espalier"
local test = require "helpers"

-- Parameters as torchvision's pages give them, and layers with weights. Models are large: what is not needed is let go.
for name, expected in pairs {
    resnet18 = { 11689512, 21 }, resnet34 = { 21797672, 37 }, resnet50 = { 25557032, 54 }, resnet101 = { 44549160, 105 },
    resnet152 = { 60192808, 156 }, vgg11 = { 132863336, 11 }, vgg13 = { 133047848, 13 }, vgg16 = { 138357544, 16 },
    vgg19 = { 143667240, 19 }, vgg11_bn = { 132868840, 11 }, vgg13_bn = { 133053736, 13 }, vgg16_bn = { 138365992, 16 },
    vgg19_bn = { 143678248, 19 }, densenet121 = { 7978856, 121 }, densenet161 = { 28681000, 161 },
    densenet169 = { 14149480, 169 }, densenet201 = { 20013928, 201 }, mobilenet_v2 = { 3504872, 53 },
    squeezenet1_0 = { 1248424, 26 }, squeezenet1_1 = { 1235496, 26 },
} do
    local model = esp.zoo[name] { seed = false }
    test.equal(model:counts().params, expected[1], name .. ": parameters")
    test.equal(#model:layers(), expected[2], name .. ": layers with weights")
    model = nil
    collectgarbage()
end

-- MACs of convolutions and dense layers at 224 x 224, and the published counts (METHODS: 138.366M / 15.470G, 25.549M / 4.089G)
for name, expected in pairs {
    vgg16 = { 15470264320, "138.366M", "15.470G" },
    resnet50 = { 4089184256, "25.549M", "4.089G" },
    densenet121 = { 2834161664 },
    mobilenet_v2 = { 300774272 },
} do
    local counts = esp.zoo[name] { seed = false }:counts()
    test.equal(counts.macs, expected[1], name .. ": MACs")
    if expected[2] then
        test.equal(("%.3fM"):format(counts.paper_params / 1e6), expected[2], name .. ": published parameters")
        test.equal(("%.3fG"):format(counts.paper_macs / 1e9), expected[3], name .. ": published MACs")
    end
    collectgarbage()
end

-- He et al. 2016, table 6: 0.27, 0.46, 0.66, 0.85 and 1.7 million; with projections 2.7 k more and the batch-norm behind them
for name, params in pairs { resnet20 = 269722, resnet32 = 464154, resnet44 = 658586, resnet56 = 853018, resnet110 = 1727962 } do
    test.equal(esp.zoo[name] { seed = false }:counts().params, params, name)
end
test.equal(esp.zoo.cifar_resnet { seed = false }:counts().params, 269722 + 16 * 32 + 32 * 64 + 2 * (32 + 64), "ResNet-20")
-- Liu et al. 2017: VGG-16 of 14.72 million; Huang et al. 2017, table 2: DenseNet-40 of 1.0, DenseNet-BC-100 of 0.8 million; exact
-- counts of the PyTorch networks that are in use
test.equal(esp.zoo.cifar_vgg { seed = false }:counts().params, 14724042, "VGG-16 for CIFAR")
test.equal(esp.zoo.cifar_densenet { seed = false }:counts().params, 769162, "DenseNet-BC-100")
local plain = esp.zoo.cifar_densenet { seed = false, layers = 12, bottleneck = false }
test.equal(plain:counts().params, 1019722, "DenseNet-40")
test.equal(#plain:layers(), 40, "DenseNet-40: layers")
test.equal(#esp.zoo.cifar_densenet { seed = false }:layers(), 100, "DenseNet-BC-100: layers")
test.equal(esp.zoo.lenet5 { seed = false }:counts().params, 431080, "LeNet-5 of Caffe")

-- every network of the list, and nothing else, can be built and run
for _, row in ipairs(esp.zoo.list()) do
    test.equal(type(esp.zoo[row.name]), "function", row.name)
    test.is_true(#row.about > 0, row.name .. ": what it is")
end
for _, case in ipairs {
    { "lenet5", { input = { 2, 20, 17 } } },
    { "resnet20", { input = { 1, 9, 6 }, width = 4 } },
    { "resnet18", { input = { 1, 33, 40 }, width = 8 } },
    { "resnet50", { input = { 3, 35, 32 }, width = 4 } },
    { "densenet161", { input = { 3, 32, 47 }, growth = 4 } },
    { "mobilenet_v2", { input = { 3, 33, 32 }, width = 0.35, dropout = true } },
    { "squeezenet1_0", { input = { 3, 37, 36 }, dropout = true } },
    { "cifar_vgg", { input = { 1, 8, 13 }, width = 4, stages = { 1, 2 } } },
    { "cifar_densenet", { input = { 2, 9, 8 }, layers = 2, growth = 4 } },
    { "squeezenet1_1", { input = { 1, 64, 45 } } },
} do
    local name, options = case[1], case[2]
    options.classes, options.seed = 7, 1
    local model = esp.zoo[name](options)
    test.equal(model:difference(esp.zoo[name](options)), 0, name .. ": one seed, one network")
    options.seed = 2
    test.is_true(model:difference(esp.zoo[name](options)) > 0, name .. ": seeds differ")
    test.equal(model:layers()[1].channels, options.input[1], name .. ": channels of the input")
    model:save("model.onnx")
    test.equal(esp.load("model.onnx"):difference(model), 0, name .. ": as a file")
end
-- Sandler et al. 2018: filters are multiples of 8 that lose at most a tenth
local slim = esp.zoo.mobilenet_v2 { width = 0.35, seed = false }:layers()
test.equal(slim[1].filters, 16, "8 would be less than 90 % of 32 * 0.35")
test.equal(slim[#slim].channels, 1280, "the last convolution keeps its filters")

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

local vgg = esp.zoo.vgg16 { input = { 3, 32, 64 }, classes = 3, seed = false, dropout = true }
test.equal(layer_of(vgg, "classifier.0").channels, 512 * 1 * 2, "what the last pooling leaves of 32 x 64")
test.equal(layer_of(vgg, "classifier.6").filters, 3, "classes")

test.fails("at least 32", esp.zoo.resnet50, { input = { 3, 16, 16 } })
test.fails("unknown key 'clases'", esp.zoo.vgg16, { clases = 3 })
test.fails("did you mean 'classes'?", esp.zoo.vgg16, { clases = 3 })
test.fails("unknown network 'resnet51', did you mean 'resnet50'?", function() return esp.zoo.resnet51 end)
test.fails("classes: found 0, expected a whole number", esp.zoo.resnet18, { classes = 0 })
test.fails("width: found -1, expected a number above 0", esp.zoo.mobilenet_v2, { width = -1 })
test.fails("dropout: found 0.5, expected a boolean", esp.zoo.vgg11, { dropout = 0.5 })
test.fails("stages: expected a list of how many", esp.zoo.cifar_vgg, { stages = { 1, "x" } })
test.fails("stages: expected a list", esp.zoo.cifar_vgg, { stages = {} })
test.fails("stages: found 3, expected a table", esp.zoo.cifar_vgg, { stages = 3 })
test.fails("at least 16 x 16", esp.zoo.cifar_vgg, { input = { 3, 8, 8 } })
test.fails("unknown shortcut 'pading', did you mean 'padding'?", esp.zoo.cifar_resnet, { shortcut = "pading" })

-- one script, one file: attributes are written in one order, whatever order Lua's tables have
local function bytes_of(path)
    local file = assert(io.open(path, "rb"))
    local bytes = file:read("a")
    file:close()
    return bytes
end
local bytes, last = bytes_of("model.onnx"), 0
for _, name in ipairs { "group", "kernel_shape", "pads", "strides" } do -- of the first node, a convolution
    local at = bytes:find(name, 1, true)
    test.is_true(at > last, "attribute " .. name .. " in its place")
    last = at
end

-- what was built is trained and cut like any other model
local data = test.two_class_set(8)
for name, options in pairs {
    cifar_resnet = { width = 4, blocks = 1, shortcut = "padding" },
    resnet20 = { width = 4 },
    cifar_vgg = { width = 8, stages = { 1, 1 } },
    cifar_densenet = { layers = 2, growth = 8 },
} do
    options.input, options.classes, options.seed = { 1, 8, 8 }, 2, 3
    local model = esp.zoo[name](options):normalize { mean = { 0.3 }, std = { 0.3 } }
    local cut, report = model:preview { method = "wsp", mode = "sound", ratio = 0.5 }:cut()
    test.is_true(report.largest_relative < 1e-4, name .. ": cut and masked agree")
    test.is_true(cut:counts().params < model:counts().params, name .. ": smaller")
    local training, testing = esp.data(data, "train"), esp.data(data, "test")
    local tuned = cut:train { data = training, validation = testing, epochs = 3, batch = 16, lr = 0.05, seed = 5 }
    test.is_true(tuned:evaluate { data = testing }.top1 > 85, name .. ": learns what is to be learnt")
end
