-- Huang et al. 2017, DenseNet-BC: every layer reads the concatenation of all layers before it in its block.
--
-- Own option: `growth` = 32 filters of a layer (48 for densenet161).
local start = require "espalier.zoo.start"

local function norm_relu_conv(net, x, place, index, options)
    x = net:relu(net:batch_norm(x, { name = place .. "norm" .. index }), { name = place .. "relu" .. index })
    options.bias, options.fan, options.name = false, "in", place .. "conv" .. index
    return net:conv(x, options)
end

local function densenet(name, blocks, growth, options)
    local net, o = start(name, options, { input = { 3, 224, 224 }, classes = 1000, least = 32, growth = growth })
    local x = net:conv(net.input, { filters = 2 * o.growth, kernel = 7, stride = 2, pad = 3, bias = false, fan = "in",
        name = "features.conv0" })
    x = net:relu(net:batch_norm(x, { name = "features.norm0" }), { name = "features.relu0" })
    x = net:max_pool(x, { kernel = 3, stride = 2, pad = 1, name = "features.pool0" })
    for block, layers in ipairs(blocks) do
        local features = { x }
        for layer = 1, layers do
            local place = ("features.denseblock%d.denselayer%d."):format(block, layer)
            local y = norm_relu_conv(net, x, place, 1, { filters = 4 * o.growth, kernel = 1 })
            features[#features + 1] = norm_relu_conv(net, y, place, 2, { filters = o.growth, pad = 1 })
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
    net:output(net:dense(x, { units = o.classes, name = "classifier", output = "logits" }))
    return net:finish()
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
return family
