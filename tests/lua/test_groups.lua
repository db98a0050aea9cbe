-- What is known of groups, and the sizes of the published self-grouped ResNet-50.
local esp = require "espalier"
local test = require "helpers"

-- Guo et al. 2020, ResNet-50: parameters in millions and operations in billions by the counter of the paper, at the ratio
-- of the 48 convolutions; the fully connected layer at 0.6. The masks published come from trained weights, and the table
-- has two decimals: half a percent of a figure, and half a unit of its last decimal.
local PUBLISHED = { [0.6] = { 11.88, 1.91 }, [0.7] = { 9.83, 1.55 }, [0.8] = { 7.76, 1.20 } }
local function near(found, published)
    return math.abs(found - published) <= 0.005 * published + 0.005
end

local resnet50 = esp.zoo.resnet50 { seed = 1 }
local before = resnet50:counts()
test.is_true(near(before.paper_params / 1e6, 25.549) and near(before.paper_macs / 1e9, 4.089), "ResNet-50 before")
for ratio, published in pairs(PUBLISHED) do
    local preview = resnet50:preview {
        method = "sg", mode = "faithful", ratio = { conv = ratio, fc = 0.6 }, groups = 16, restarts = 1,
    }
    local after, taking_part = preview:after(), 0
    for _, layer in ipairs(preview:table().layers) do
        taking_part = taking_part + (layer.takes_part and 1 or 0)
    end
    test.equal(taking_part, 49, "48 convolutions and the fully connected layer")
    test.is_true(near(after.paper_params / 1e6, published[1]),
        ("parameters at %.1f: %.3fM"):format(ratio, after.paper_params / 1e6))
    test.is_true(near(after.paper_macs / 1e9, published[2]),
        ("operations at %.1f: %.3fG"):format(ratio, after.paper_macs / 1e9))
end

local model = test.small_network(esp, 8)
local groups = model:groups { plan = { method = "sg", ratio = 0.5, groups = 3 }, suggest = true, most = 6 }
test.is_true(#groups.layers >= 2, "layers with groups")
for _, layer in ipairs(groups.layers) do
    local filters = 0
    for _, cluster in ipairs(layer.clusters) do
        filters = filters + cluster.filters
    end
    test.equal(filters, layer.filters, layer.name .. ": filters of all groups")
    test.equal(layer.groups, math.min(3, layer.filters), layer.name .. ": groups")
    test.equal(#layer.curve, math.min(6, layer.filters), layer.name .. ": points of the curve")
    test.is_true(layer.suggested >= 1 and layer.suggested <= #layer.curve, layer.name .. ": suggestion")
    test.is_true(layer.inertia <= layer.spread, layer.name .. ": groups explain something")
end
local one = model:groups { layer = "block.*2" }
test.equal(#one.layers, 1, "layers chosen by a pattern")
test.equal(one.layers[1].name, "block.conv2", "the layer chosen")
test.equal(one.layers[1].curve, nil, "a curve nobody asked for")
test.equal(#model:groups { layer = { "block.conv1", "fc" } }.layers, 2, "a list of layers")

test.fails("nolayer", function() model:groups { layer = "nolayer" } end)
test.fails("wsp", function() model:groups { plan = { method = "wsp", ratio = 0.3 } } end)
test.fails("did you mean 'suggest'", function() model:groups { sugest = true } end)
test.fails("restarts", function() model:groups { restarts = 0 } end)
