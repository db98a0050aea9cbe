-- Simonyan and Zisserman 2015, columns A, B, D and E: 3x3 convolutions in five stages with a pooling after each; the _bn forms
-- have a batch-norm behind every convolution. The first dense layer takes what the last pooling leaves (512 x 7 x 7 at
-- 224 x 224; torchvision pools adaptively to 7 x 7, which is the same for 224).
--
-- Own options: `width` = 64 filters of the first stage (8 * width are the most), `dropout` = false: true puts one behind both
-- hidden dense layers, for training.
local start = require "espalier.zoo.start"

local function vgg(name, convs, has_norm, options)
    local net, o = start(name, options, { input = { 3, 224, 224 }, classes = 1000, least = 32, width = 64, dropout = false })
    local x, index = net.input, 0
    local function layer(make, keywords)
        keywords.name = "features." .. index
        x, index = make(net, x, keywords), index + 1
    end
    for stage, count in ipairs(convs) do
        for _ = 1, count do
            layer(net.conv, { filters = o.width * math.min(1 << (stage - 1), 8), pad = 1 })
            if has_norm then
                layer(net.batch_norm, {})
            end
            layer(net.relu, {})
        end
        layer(net.max_pool, {})
    end
    x = net:flatten(x)
    for i = 0, 1 do
        x = net:relu(net:dense(x, { units = 4096, name = "classifier." .. 3 * i }), { name = "classifier." .. 3 * i + 1 })
        if o.dropout then
            x = net:dropout(x, { name = "classifier." .. 3 * i + 2 })
        end
    end
    net:output(net:dense(x, { units = o.classes, name = "classifier.6", output = "logits" }))
    return net:finish()
end

local family = {}
for _, column in ipairs {
    { "vgg11", { 1, 1, 2, 2, 2 } },
    { "vgg13", { 2, 2, 2, 2, 2 } },
    { "vgg16", { 2, 2, 3, 3, 3 } },
    { "vgg19", { 2, 2, 4, 4, 4 } },
} do
    local name, convs = column[1], column[2]
    family[#family + 1] = { name, function(options) return vgg(name, convs, false, options) end, "VGG" }
    family[#family + 1] = { name .. "_bn", function(options) return vgg(name .. "_bn", convs, true, options) end,
        "VGG with batch-norm" }
end
return family
