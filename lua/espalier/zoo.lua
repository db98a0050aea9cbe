-- Known networks with random weights. Parameter names are those of the usual PyTorch definitions.
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

return zoo
