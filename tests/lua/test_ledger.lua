-- Asked and got: the ledger of networks of the zoo adds up by every method; explanations agree with the masks.
local esp = require "espalier"
local test = require "helpers"

local plans = {
    { method = "wsp", mode = "sound", ratio = 0.6 },
    { method = "wsp", mode = "sound", ratio = 0.6, scope = "global", round_to = 8 },
    { method = "wsp", mode = "faithful", ratio = 0.6 },
    { method = "filter", ratio = 0.5, criterion = "l2" },
    { method = "filter", ratio = { conv = 0.7, fc = 0.2 }, scope = "global", floor = 0.3, round_to = 16 },
    { method = "sg", mode = "sound", ratio = 0.6, groups = 4, restarts = 1, max_iterations = 5 },
}

local function check(preview, what)
    local ledger = preview:ledger()
    for _, layer in ipairs(ledger.layers) do
        local sum = 0
        for _, entry in ipairs(layer.entries) do
            sum = sum + entry.share
            test.is_true(#entry.text > 0, what .. ": a reason has a text")
        end
        test.is_true(math.abs(layer.asked - layer.got - sum) < 1e-9,
            ("%s, %s: asked %g, got %g, reasons for %g"):format(what, layer.name, layer.asked, layer.got, sum))
        test.is_true(layer.asked > 0 or layer.got >= 0, what)
    end
    return ledger
end

for _, name in ipairs { "resnet18", "mobilenet_v2", "squeezenet1_1" } do
    local model = esp.zoo[name] {}
    for i, plan in ipairs(plans) do
        local preview = model:preview(plan)
        check(preview, ("%s, plan %d"):format(name, i))
        test.is_true(preview:after().params < preview:before().params, name .. " gets smaller")
        local told = preview:table()
        test.equal(preview:stored().params, told.stored.params, name .. ": parameters of the file")
        test.equal(preview:stored().macs, told.stored.macs, name .. ": MACs of the file")
        test.is_true(preview:stored().macs >= preview:after().macs, name .. ": zeros that stay count")
        test.equal(preview:nothing(), nil, name .. ": something is cut")
    end
    model = nil
    collectgarbage()
end

local model = test.small_network(esp, 8)
local preview = model:preview { method = "filter", ratio = 0.5 }
test.equal(preview:ledger().unit, "filters", "unit")
test.equal(model:preview({ method = "sg", ratio = 0.5 }):ledger().unit, "connections", "unit of sg")

-- asked, and nothing can be cut: a sentence says why, the same as in the table
local whole = model:preview { method = "filter", ratio = 0.5, floor = 1 }
test.is_true(type(whole:nothing()) == "string" and #whole:nothing() > 0, "why nothing is cut")
test.equal(whole:nothing(), whole:table().nothing, "the table's sentence")
test.equal(model:preview({ method = "filter", ratio = 0 }):nothing(), nil, "nothing was asked")

-- channels count from 0, as in the tables
local mask = preview:mask(2)
for channel = 0, #mask - 1 do
    local told, text = preview:explain(2, channel)
    test.equal(told.stays, mask[channel + 1]:find("1") ~= nil, "filter " .. channel)
    test.is_true(text:find(told.stays and "stays" or "goes", 1, true), "text")
    test.equal(#told.scores, 1, "one score")
end
test.fails("expected 0 to", preview.explain, preview, 2, #mask)
test.fails("unknown layer", preview.explain, preview, "nosuch", 0)
test.fails("did you mean 'fpgm'", model.preview, model, { method = "filter", ratio = 0.5, criterion = "fpg" })
test.fails("round_to", model.preview, model, { method = "sg", ratio = 0.5, round_to = 8 })
test.fails("taylor", model.preview, model, { method = "filter", ratio = 0.5, criterion = "taylor" })

-- criteria that look at images, with a calibration set
local data = esp.data(test.two_class_set(8), "train")
local by_images = model:preview({ method = "filter", ratio = 0.5, criterion = "taylor" }, { data = data, images = 32, seed = 1 })
check(by_images, "taylor")
test.is_true(by_images:after().params < by_images:before().params, "taylor cuts")
test.fails("imags", model.preview, model, { method = "filter", ratio = 0.5 }, { imags = 3 })
