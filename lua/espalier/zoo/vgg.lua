-- Simonyan and Zisserman 2015, columns A, B, D and E: 3x3 convolutions in five stages with a pooling after each; the _bn forms
-- have a batch-norm behind every convolution. The first dense layer takes what the last pooling leaves (512 x 7 x 7 at
-- 224 x 224; torchvision pools adaptively to 7 x 7, which is the same for 224).
--
-- Own options: `width` = 64 filters of the first stage (8 * width are the most), `dropout` = false: true puts one behind both
-- hidden dense layers, for training.
--
-- cifar_vgg is the form for small images that the pruning papers use (Liu et al. 2017, network slimming): batch-norms, no
-- biases, a pooling between stages, the mean over what is left behind the last, one dense layer. Own options: `width` = 64 and
-- `stages` = { 2, 2, 3, 3, 3 }, the convolutions of each stage (VGG-16; every stage halves the image).
local core = require "espalier.core"
local start = require "espalier.zoo.start"

-- The convolutions of all stages, `form`: norm, bias, and whether a pooling follows the last stage too (pools_last).
local function features(net, convs, width, form)
    local x, index = net.input, 0
    local function layer(make, keywords)
        keywords.name = "features." .. index
        x, index = make(net, x, keywords), index + 1
    end
    for stage, count in ipairs(convs) do
        for _ = 1, count do
            layer(net.conv, { filters = width * math.min(1 << (stage - 1), 8), pad = 1, bias = form.bias })
            if form.norm then
                layer(net.batch_norm, {})
            end
            layer(net.relu, {})
        end
        if form.pools_last or stage < #convs then
            layer(net.max_pool, {})
        end
    end
    return x
end

local function vgg(name, convs, has_norm, options)
    local net, o = start(name, options, { input = { 3, 224, 224 }, classes = 1000, least = 32, width = 64, dropout = false })
    local x = net:flatten(features(net, convs, o.width, { norm = has_norm, bias = true, pools_last = true }))
    for i = 0, 1 do
        x = net:relu(net:dense(x, { units = 4096, name = "classifier." .. 3 * i }), { name = "classifier." .. 3 * i + 1 })
        if o.dropout then
            x = net:dropout(x, { name = "classifier." .. 3 * i + 2 })
        end
    end
    net:output(net:dense(x, { units = o.classes, name = "classifier.6", output = "logits" }))
    return net:finish()
end

local function is_stages(stages)
    for _, count in ipairs(stages) do
        if math.type(count) ~= "integer" or count < 1 then
            return false
        end
    end
    return #stages >= 1
end

local function cifar_vgg(options)
    local stages = type(options) == "table" and options.stages or { 2, 2, 3, 3, 3 }
    local halvings = type(stages) == "table" and #stages > 0 and #stages - 1 or 0
    local net, o = start("cifar_vgg", options,
        { input = { 3, 32, 32 }, classes = 10, least = 1 << math.min(halvings, 30), width = 64, stages = { 2, 2, 3, 3, 3 } })
    if not is_stages(o.stages) then
        core.fail("stages: expected a list of how many convolutions each stage has", 2)
    end
    local x = features(net, o.stages, o.width, { norm = true, bias = false, pools_last = false })
    x = net:flatten(net:global_average_pool(x))
    net:output(net:dense(x, { units = o.classes, name = "classifier", output = "logits" }))
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
family[#family + 1] = { "cifar_vgg", cifar_vgg, "VGG-16 for CIFAR: batch-norms, one dense layer" }
return family
