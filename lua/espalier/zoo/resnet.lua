-- Residual networks: He et al. 2016, for ImageNet as torchvision has them (the stride of a bottleneck in its 3x3 convolution,
-- "v1.5") and for small images (section 4.2).
--
-- Own option: `width` = 64 filters of the first stage (16 for small images).
local core = require "espalier.core"
local keys = require "espalier.keys"
local start = require "espalier.zoo.start"

-- A convolution without bias and the batch-norm behind it.
local function conv_norm(net, x, options, conv_name, norm_name)
    options.bias, options.name = false, conv_name
    return net:batch_norm(net:conv(x, options), { name = norm_name })
end

local function projection(net, x, filters, stride, name)
    return conv_norm(net, x, { filters = filters, kernel = 1, stride = stride }, name .. ".downsample.0",
        name .. ".downsample.1")
end

-- Shortcut "A" of the paper: subsampled, and channels of zeros for those that are new. Nothing to learn.
local function padding(net, x, filters, stride, name)
    local missing = filters - x.shape[1]
    if stride > 1 then
        x = net:subsample(x, { stride = stride, name = name .. ".shortcut.slice" })
    end
    return net:pad_channels(x, { before = missing // 2, after = missing - missing // 2, name = name .. ".shortcut.pad" })
end

local function join(net, x, y, stride, name, shortcut)
    if stride ~= 1 or x.shape[1] ~= y.shape[1] then
        x = shortcut(net, x, y.shape[1], stride, name)
    end
    return net:relu(net:add(y, x))
end

local function basic(net, x, width, stride, name, shortcut)
    local y = net:relu(conv_norm(net, x, { filters = width, stride = stride, pad = 1 }, name .. ".conv1", name .. ".bn1"))
    y = conv_norm(net, y, { filters = width, pad = 1 }, name .. ".conv2", name .. ".bn2")
    return join(net, x, y, stride, name, shortcut)
end

local function bottleneck(net, x, width, stride, name, shortcut)
    local y = net:relu(conv_norm(net, x, { filters = width, kernel = 1 }, name .. ".conv1", name .. ".bn1"))
    y = net:relu(conv_norm(net, y, { filters = width, stride = stride, pad = 1 }, name .. ".conv2", name .. ".bn2"))
    y = conv_norm(net, y, { filters = 4 * width, kernel = 1 }, name .. ".conv3", name .. ".bn3")
    return join(net, x, y, stride, name, shortcut)
end

-- Stages of `counts` blocks; each but the first halves the image and doubles the filters.
local function stages(net, x, counts, width, block, shortcut)
    for stage, count in ipairs(counts) do
        for index = 1, count do
            local stride = stage > 1 and index == 1 and 2 or 1
            x = block(net, x, width << (stage - 1), stride, ("layer%d.%d"):format(stage, index - 1), shortcut)
        end
    end
    return x
end

local function resnet(name, block, counts, options)
    local net, o = start(name, options, { input = { 3, 224, 224 }, classes = 1000, least = 32, width = 64 })
    local x = net:relu(conv_norm(net, net.input, { filters = o.width, kernel = 7, stride = 2, pad = 3 }, "conv1", "bn1"))
    x = net:max_pool(x, { kernel = 3, stride = 2, pad = 1, name = "maxpool" })
    x = stages(net, x, counts, o.width, block, projection)
    x = net:flatten(net:global_average_pool(x, { name = "avgpool" }))
    net:output(net:dense(x, { units = o.classes, name = "fc", output = "logits" }))
    return net:finish()
end

-- For small images: three stages of basic blocks, 6 * blocks + 2 layers.
local function finish_small(net, o, blocks, shortcut)
    local x = net:relu(conv_norm(net, net.input, { filters = o.width, pad = 1 }, "conv1", "bn1"))
    x = stages(net, x, { blocks, blocks, blocks }, o.width, basic, shortcut)
    x = net:flatten(net:global_average_pool(x))
    net:output(net:dense(x, { units = o.classes, name = "fc", output = "logits" }))
    return net:finish()
end

-- { blocks = 3, width = 16, shortcut = "projection" or "padding" }
local function cifar_resnet(options)
    local function name_of(o)
        return "resnet" .. 6 * o.blocks + 2
    end
    local net, o = start(name_of, options,
        { input = { 3, 32, 32 }, classes = 10, least = 4, blocks = 3, width = 16, shortcut = "projection" })
    local shortcut = o.shortcut == "projection" and projection or o.shortcut == "padding" and padding
    if not shortcut then
        core.fail(keys.unknown("shortcut", o.shortcut, { "projection", "padding" }), 2)
    end
    return finish_small(net, o, o.blocks, shortcut)
end

local family = {}
for _, row in ipairs {
    { "resnet18", basic, { 2, 2, 2, 2 } },
    { "resnet34", basic, { 3, 4, 6, 3 } },
    { "resnet50", bottleneck, { 3, 4, 6, 3 } },
    { "resnet101", bottleneck, { 3, 4, 23, 3 } },
    { "resnet152", bottleneck, { 3, 8, 36, 3 } },
} do
    local name, block, counts = row[1], row[2], row[3]
    family[#family + 1] = { name, function(options) return resnet(name, block, counts, options) end, "ResNet for ImageNet" }
end
for _, blocks in ipairs { 3, 5, 7, 9, 18 } do
    local name = "resnet" .. 6 * blocks + 2
    local function build(options)
        local net, o = start(name, options, { input = { 3, 32, 32 }, classes = 10, least = 4, width = 16 })
        return finish_small(net, o, blocks, padding)
    end
    family[#family + 1] = { name, build, "ResNet for CIFAR, shortcuts without parameters" }
end
family[#family + 1] = { "cifar_resnet", cifar_resnet, "ResNet for CIFAR of any depth, projection shortcuts" }
return family
