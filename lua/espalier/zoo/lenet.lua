-- LeNet-5 as the pruning papers use it (LeCun et al. 1998 in Caffe's form): 20 and 50 filters of 5x5, 500 units.
local start = require "espalier.zoo.start"

local function lenet5(options)
    local net, o = start("lenet5", options, { input = { 1, 28, 28 }, classes = 10, least = 16 })
    local x = net:conv(net.input, { filters = 20, kernel = 5, name = "conv1" })
    x = net:max_pool(net:relu(x))
    x = net:conv(x, { filters = 50, kernel = 5, name = "conv2" })
    x = net:max_pool(net:relu(x))
    x = net:relu(net:dense(net:flatten(x), { units = 500, name = "fc1" }))
    net:output(net:dense(x, { units = o.classes, name = "fc2", output = "logits" }))
    return net:finish()
end

return { { "lenet5", lenet5, "LeNet-5 in Caffe's form, for 28x28 grey images" } }
