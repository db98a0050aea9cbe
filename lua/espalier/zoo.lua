-- Known networks with random weights:
--
--   esp.zoo.lenet5, cifar_resnet                           for small images
--   esp.zoo.vgg16, vgg19, resnet50, densenet121, densenet201    as torchvision defines them, for ImageNet
--
-- Each takes a table of options that may be left out: `input` {channels, height, width}, `classes`, `seed` of the weights
-- (He et al. 2015; false: all zero, quick and enough to count), and what stands above it. Each returns a model. Node and
-- parameter names are those of the usual PyTorch definitions ("layer1.0.conv1", "layer1.0.conv1.weight").
local check = require "espalier.keys".check
local network = require "espalier.network"

local zoo = {}

-- LeNet-5 as the pruning papers use it (LeCun et al. 1998 in Caffe's form): 20 and 50 filters of 5x5, 500 units.
-- { input = {1, 28, 28}, classes = 10, seed = 0 }
function zoo.lenet5(options)
    options = check(options, { "input", "classes", "seed" })
    local net = network.new("lenet5", { input = options.input or { 1, 28, 28 }, seed = options.seed })
    local x = net:conv(net.input, { filters = 20, kernel = 5, name = "conv1" })
    x = net:max_pool(net:relu(x))
    x = net:conv(x, { filters = 50, kernel = 5, name = "conv2" })
    x = net:max_pool(net:relu(x))
    x = net:relu(net:dense(net:flatten(x), { units = 500, name = "fc1" }))
    net:output(net:dense(x, { units = options.classes or 10, name = "fc2", output = "logits" }))
    return net:finish()
end

local function basic_block(net, x, filters, stride, name)
    local y = net:conv(x, { filters = filters, stride = stride, pad = 1, bias = false, name = name .. ".conv1" })
    y = net:relu(net:batch_norm(y, { name = name .. ".bn1" }))
    y = net:conv(y, { filters = filters, pad = 1, bias = false, name = name .. ".conv2" })
    y = net:batch_norm(y, { name = name .. ".bn2" })
    if stride ~= 1 or x.shape[1] ~= filters then
        x = net:conv(x, { filters = filters, kernel = 1, stride = stride, bias = false, name = name .. ".downsample.0" })
        x = net:batch_norm(x, { name = name .. ".downsample.1" })
    end
    return net:relu(net:add(y, x))
end

-- ResNet for small images (He et al. 2016, section 4.2) with projection shortcuts: three stages of `blocks` basic blocks of
-- `width`, 2*width and 4*width filters. blocks = 3 is ResNet-20, 9 is ResNet-56.
-- { input = {3, 32, 32}, classes = 10, blocks = 3, width = 16, seed = 0 }
function zoo.cifar_resnet(options)
    options = check(options, { "input", "classes", "blocks", "width", "seed" })
    local blocks, width = options.blocks or 3, options.width or 16
    local net = network.new("resnet" .. 6 * blocks + 2, { input = options.input or { 3, 32, 32 }, seed = options.seed })
    local x = net:conv(net.input, { filters = width, pad = 1, bias = false, name = "conv1" })
    x = net:relu(net:batch_norm(x, { name = "bn1" }))
    for stage = 1, 3 do
        for block = 1, blocks do
            local stride = stage > 1 and block == 1 and 2 or 1
            x = basic_block(net, x, width << (stage - 1), stride, ("layer%d.%d"):format(stage, block - 1))
        end
    end
    x = net:flatten(net:global_average_pool(x))
    net:output(net:dense(x, { units = options.classes or 10, name = "fc", output = "logits" }))
    return net:finish()
end

-- Small images are too small for five halvings.
local function imagenet(name, options)
    local input = options.input or { 3, 224, 224 }
    if type(input) ~= "table" or #input ~= 3 or math.min(input[2], input[3]) < 32 then
        error("input: expected {channels, height, width} of at least 32 x 32", 3)
    end
    return network.new(name, { input = input, seed = options.seed })
end

-- Simonyan and Zisserman 2015, columns D and E: 3x3 convolutions in five stages with a pooling after each. The first dense
-- layer takes what the last pooling leaves (512 x 7 x 7 at 224 x 224).
local function vgg(name, convs, options)
    options = check(options, { "input", "classes", "seed", "dropout" })
    local net = imagenet(name, options)
    local x, index = net.input, 0
    local function layer(make, ...)
        x, index = make(net, ...), index + 1
    end
    for stage, count in ipairs(convs) do
        for _ = 1, count do
            layer(net.conv, x, { filters = math.min(64 << (stage - 1), 512), pad = 1, name = "features." .. index })
            layer(net.relu, x, { name = "features." .. index })
        end
        layer(net.max_pool, x, { name = "features." .. index })
    end
    x = net:flatten(x)
    for i = 0, 1 do
        x = net:relu(net:dense(x, { units = 4096, name = "classifier." .. 3 * i }), { name = "classifier." .. 3 * i + 1 })
        if options.dropout then
            x = net:dropout(x, { name = "classifier." .. 3 * i + 2 })
        end
    end
    net:output(net:dense(x, { units = options.classes or 1000, name = "classifier.6", output = "logits" }))
    return net:finish()
end

-- { input = {3, 224, 224}, classes = 1000, seed = 0, dropout = false }: dropout = true puts one behind both hidden dense
-- layers, for training
function zoo.vgg16(options)
    return vgg("vgg16", { 2, 2, 3, 3, 3 }, options)
end

function zoo.vgg19(options)
    return vgg("vgg19", { 2, 2, 4, 4, 4 }, options)
end

local function bottleneck(net, x, width, stride, name)
    local function conv_norm(from, options, index)
        options.bias, options.name = false, name .. ".conv" .. index
        return net:batch_norm(net:conv(from, options), { name = name .. ".bn" .. index })
    end
    local y = net:relu(conv_norm(x, { filters = width, kernel = 1 }, 1))
    y = net:relu(conv_norm(y, { filters = width, stride = stride, pad = 1 }, 2))
    y = conv_norm(y, { filters = 4 * width, kernel = 1 }, 3)
    if stride ~= 1 or x.shape[1] ~= 4 * width then
        x = net:conv(x, { filters = 4 * width, kernel = 1, stride = stride, bias = false, name = name .. ".downsample.0" })
        x = net:batch_norm(x, { name = name .. ".downsample.1" })
    end
    return net:relu(net:add(y, x))
end

-- He et al. 2016 with the stride in the 3x3 convolution, as torchvision has it (v1.5).
-- { input = {3, 224, 224}, classes = 1000, seed = 0 }
function zoo.resnet50(options)
    options = check(options, { "input", "classes", "seed" })
    local net = imagenet("resnet50", options)
    local x = net:conv(net.input, { filters = 64, kernel = 7, stride = 2, pad = 3, bias = false, name = "conv1" })
    x = net:relu(net:batch_norm(x, { name = "bn1" }))
    x = net:max_pool(x, { kernel = 3, stride = 2, pad = 1, name = "maxpool" })
    for stage, blocks in ipairs { 3, 4, 6, 3 } do
        for block = 1, blocks do
            local stride = stage > 1 and block == 1 and 2 or 1
            x = bottleneck(net, x, 64 << (stage - 1), stride, ("layer%d.%d"):format(stage, block - 1))
        end
    end
    x = net:flatten(net:global_average_pool(x, { name = "avgpool" }))
    net:output(net:dense(x, { units = options.classes or 1000, name = "fc", output = "logits" }))
    return net:finish()
end

local function norm_relu_conv(net, x, place, index, options)
    x = net:relu(net:batch_norm(x, { name = place .. "norm" .. index }), { name = place .. "relu" .. index })
    options.bias, options.fan, options.name = false, "in", place .. "conv" .. index
    return net:conv(x, options)
end

-- Huang et al. 2017, DenseNet-BC with growth 32: every layer reads the concatenation of all layers before it in its block.
local function densenet(name, blocks, options)
    options = check(options, { "input", "classes", "seed" })
    local growth = 32
    local net = imagenet(name, options)
    local x = net:conv(net.input, { filters = 2 * growth, kernel = 7, stride = 2, pad = 3, bias = false, fan = "in",
        name = "features.conv0" })
    x = net:relu(net:batch_norm(x, { name = "features.norm0" }), { name = "features.relu0" })
    x = net:max_pool(x, { kernel = 3, stride = 2, pad = 1, name = "features.pool0" })
    for block, layers in ipairs(blocks) do
        local features = { x }
        for layer = 1, layers do
            local place = ("features.denseblock%d.denselayer%d."):format(block, layer)
            local y = norm_relu_conv(net, x, place, 1, { filters = 4 * growth, kernel = 1 })
            features[#features + 1] = norm_relu_conv(net, y, place, 2, { filters = growth, pad = 1 })
            x = net:concat(features)
        end
        if block < #blocks then
            local place = ("features.transition%d."):format(block)
            x = norm_relu_conv(net, x, place, "", { filters = x.shape[1] // 2, kernel = 1 })
            x = net:average_pool(x, { name = place .. "pool" })
        end
    end
    x = net:relu(net:batch_norm(x, { name = "features.norm5" }))
    x = net:flatten(net:global_average_pool(x))
    net:output(net:dense(x, { units = options.classes or 1000, name = "classifier", output = "logits" }))
    return net:finish()
end

-- { input = {3, 224, 224}, classes = 1000, seed = 0 }
function zoo.densenet121(options)
    return densenet("densenet121", { 6, 12, 24, 16 }, options)
end

function zoo.densenet201(options)
    return densenet("densenet201", { 6, 12, 48, 32 }, options)
end

return zoo
