-- SqueezeNet 1.0 (Iandola et al. 2016) and 1.1 (their repository's cheaper form): Fire modules, a narrow 1x1 convolution in front
-- of a 1x1 and a 3x3 that are concatenated; poolings round up; the classifier is a convolution.
--
-- Own option: `dropout` = false: true puts one in front of the classifier, for training.
local start = require "espalier.zoo.start"

local function conv_relu(net, x, options, name)
    options.fan, options.name = "in", name
    return net:relu(net:conv(x, options), { name = name .. "_activation" })
end

local function fire(net, x, squeeze, expand, place)
    x = conv_relu(net, x, { filters = squeeze, kernel = 1 }, place .. ".squeeze")
    return net:concat { conv_relu(net, x, { filters = expand, kernel = 1 }, place .. ".expand1x1"),
        conv_relu(net, x, { filters = expand, kernel = 3, pad = 1 }, place .. ".expand3x3") }
end

-- `layers`: filters {squeeze, expand} of a Fire module, or "pool".
local function squeezenet(name, stem, layers, options)
    local net, o = start(name, options, { input = { 3, 224, 224 }, classes = 1000, least = 32, dropout = false })
    local x = net:conv(net.input, { filters = stem.filters, kernel = stem.kernel, stride = 2, fan = "in",
        name = "features.0" })
    x = net:relu(x, { name = "features.1" })
    for i, layer in ipairs(layers) do
        local place = "features." .. i + 1
        if layer == "pool" then
            x = net:max_pool(x, { kernel = 3, stride = 2, ceil = true, name = place })
        else
            x = fire(net, x, layer[1], layer[2], place)
        end
    end
    if o.dropout then
        x = net:dropout(x, { name = "classifier.0" })
    end
    x = net:conv(x, { filters = o.classes, kernel = 1, fan = "in", name = "classifier.1" })
    x = net:global_average_pool(net:relu(x, { name = "classifier.2" }), { name = "classifier.3" })
    net:output(net:flatten(x, { output = "logits" }))
    return net:finish()
end

local function squeezenet1_0(options)
    return squeezenet("squeezenet1_0", { filters = 96, kernel = 7 }, { "pool", { 16, 64 }, { 16, 64 }, { 32, 128 }, "pool",
        { 32, 128 }, { 48, 192 }, { 48, 192 }, { 64, 256 }, "pool", { 64, 256 } }, options)
end

local function squeezenet1_1(options)
    return squeezenet("squeezenet1_1", { filters = 64, kernel = 3 }, { "pool", { 16, 64 }, { 16, 64 }, "pool", { 32, 128 },
        { 32, 128 }, "pool", { 48, 192 }, { 48, 192 }, { 64, 256 }, { 64, 256 } }, options)
end

return { { "squeezenet1_0", squeezenet1_0, "SqueezeNet 1.0" }, { "squeezenet1_1", squeezenet1_1, "SqueezeNet 1.1" } }
