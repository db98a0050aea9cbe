-- MobileNetV2, Sandler et al. 2018: inverted residual blocks, depthwise convolutions between a widening and a narrowing 1x1
-- convolution, ReLU6 behind all but the narrowing one.
--
-- Own options: `width` = 1.0 times the filters of every layer, to the next multiple of 8 that is at least 90 % of it (the last
-- convolution never has fewer than 1280), `dropout` = false: true puts one of 0.2 in front of the dense layer, for training.
local start = require "espalier.zoo.start"

-- Expansion, filters, blocks, stride of the first block: table 2 of the paper.
local settings = {
    { 1, 16, 1, 1 },
    { 6, 24, 2, 2 },
    { 6, 32, 3, 2 },
    { 6, 64, 4, 2 },
    { 6, 96, 3, 1 },
    { 6, 160, 3, 2 },
    { 6, 320, 1, 1 },
}

local function divisible(filters)
    local result = math.max(8, (filters + 4) // 8 * 8)
    return math.tointeger(result < 0.9 * filters and result + 8 or result)
end

-- Convolution and batch-norm; the names of both, and a ReLU6 behind them when it is given one.
local function conv_norm(net, x, options, conv_name, norm_name, relu_name)
    options.bias, options.name = false, conv_name
    x = net:batch_norm(net:conv(x, options), { name = norm_name })
    return relu_name and net:clip(x, { min = 0, max = 6, name = relu_name }) or x
end

local function conv_norm_relu(net, x, options, place)
    return conv_norm(net, x, options, place .. ".0", place .. ".1", place .. ".2")
end

local function inverted_residual(net, x, expansion, filters, stride, place)
    local y, index, hidden = x, 0, x.shape[1] * expansion
    if expansion ~= 1 then
        y, index = conv_norm_relu(net, y, { filters = hidden, kernel = 1 }, place .. ".conv.0"), 1
    end
    y = conv_norm_relu(net, y, { filters = hidden, stride = stride, pad = 1, group = hidden }, place .. ".conv." .. index)
    y = conv_norm(net, y, { filters = filters, kernel = 1 }, place .. ".conv." .. index + 1, place .. ".conv." .. index + 2)
    return stride == 1 and x.shape[1] == filters and net:add(x, y) or y
end

local function mobilenet_v2(options)
    local net, o = start("mobilenet_v2", options,
        { input = { 3, 224, 224 }, classes = 1000, least = 32, width = 1.0, dropout = false })
    local x = conv_norm_relu(net, net.input, { filters = divisible(32 * o.width), stride = 2, pad = 1 }, "features.0")
    local index = 1
    for _, setting in ipairs(settings) do
        local expansion, filters, blocks, stride = table.unpack(setting)
        for block = 1, blocks do
            x = inverted_residual(net, x, expansion, divisible(filters * o.width), block == 1 and stride or 1,
                "features." .. index)
            index = index + 1
        end
    end
    local last = divisible(1280 * math.max(1.0, o.width))
    x = conv_norm_relu(net, x, { filters = last, kernel = 1 }, "features." .. index)
    x = net:flatten(net:global_average_pool(x))
    if o.dropout then
        x = net:dropout(x, { ratio = 0.2, name = "classifier.0" })
    end
    net:output(net:dense(x, { units = o.classes, name = "classifier.1", output = "logits" }))
    return net:finish()
end

return { { "mobilenet_v2", mobilenet_v2, "MobileNetV2, of any width" } }
