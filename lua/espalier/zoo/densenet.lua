-- Huang et al. 2017: every layer reads the concatenation of all layers before it in its block. DenseNet-BC for ImageNet as
-- torchvision has it, and the networks for CIFAR (section 4: three blocks behind a 3x3 convolution).
--
-- Own options: `growth` = 32 filters of a layer (48 for densenet161). cifar_densenet: `growth` = 12, `layers` = 16 of each block,
-- `bottleneck` = true: 1x1 convolutions in front and half the channels behind a block (DenseNet-BC, 6 * layers + 4 deep: 100);
-- false: neither (3 * layers + 4 deep, 12 layers make DenseNet-40).
local start = require "espalier.zoo.start"

local function norm_relu_conv(net, x, place, index, options)
    x = net:relu(net:batch_norm(x, { name = place .. "norm" .. index }), { name = place .. "relu" .. index })
    options.bias, options.fan, options.name = false, "in", place .. "conv" .. index
    return net:conv(x, options)
end

-- Dense blocks of `counts` layers with transitions between them, and the last norm.
local function blocks(net, x, counts, growth, has_bottleneck)
    for block, layers in ipairs(counts) do
        local features = { x }
        for layer = 1, layers do
            local place = ("features.denseblock%d.denselayer%d."):format(block, layer)
            local y, index = x, 1
            if has_bottleneck then
                y, index = norm_relu_conv(net, x, place, 1, { filters = 4 * growth, kernel = 1 }), 2
            end
            features[#features + 1] = norm_relu_conv(net, y, place, index, { filters = growth, pad = 1 })
            x = net:concat(features)
        end
        if block < #counts then
            local place = ("features.transition%d."):format(block)
            local filters = has_bottleneck and x.shape[1] // 2 or x.shape[1]
            x = norm_relu_conv(net, x, place, "", { filters = filters, kernel = 1 })
            x = net:average_pool(x, { name = place .. "pool" })
        end
    end
    return net:relu(net:batch_norm(x, { name = "features.norm5" }))
end

local function classify(net, x, classes)
    x = net:flatten(net:global_average_pool(x))
    net:output(net:dense(x, { units = classes, name = "classifier", output = "logits" }))
    return net:finish()
end

local function densenet(name, counts, growth, options)
    local net, o = start(name, options, { input = { 3, 224, 224 }, classes = 1000, least = 32, growth = growth })
    local x = net:conv(net.input, { filters = 2 * o.growth, kernel = 7, stride = 2, pad = 3, bias = false, fan = "in",
        name = "features.conv0" })
    x = net:relu(net:batch_norm(x, { name = "features.norm0" }), { name = "features.relu0" })
    x = net:max_pool(x, { kernel = 3, stride = 2, pad = 1, name = "features.pool0" })
    return classify(net, blocks(net, x, counts, o.growth, true), o.classes)
end

local function cifar_densenet(options)
    local function name_of(o)
        return "densenet" .. (o.bottleneck and 6 or 3) * o.layers + 4
    end
    local net, o = start(name_of, options,
        { input = { 3, 32, 32 }, classes = 10, least = 4, growth = 12, layers = 16, bottleneck = true })
    local x = net:conv(net.input, { filters = o.bottleneck and 2 * o.growth or 16, pad = 1, bias = false, fan = "in",
        name = "features.conv0" })
    return classify(net, blocks(net, x, { o.layers, o.layers, o.layers }, o.growth, o.bottleneck), o.classes)
end

local family = {}
for _, row in ipairs {
    { "densenet121", { 6, 12, 24, 16 }, 32 },
    { "densenet161", { 6, 12, 36, 24 }, 48 },
    { "densenet169", { 6, 12, 32, 32 }, 32 },
    { "densenet201", { 6, 12, 48, 32 }, 32 },
} do
    local name, blocks, growth = row[1], row[2], row[3]
    family[#family + 1] = { name, function(options) return densenet(name, blocks, growth, options) end, "DenseNet-BC" }
end
family[#family + 1] = { "cifar_densenet", cifar_densenet, "DenseNet-BC-100 for CIFAR, or of any depth" }
return family
