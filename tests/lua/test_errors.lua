-- Mistakes in scripts are errors that say what was found and expected, as tables.
local esp = require "espalier"
local test = require "helpers"

local spec = test.two_class_set(8)
local model = test.small_network(esp, 8)
local data = esp.data(spec, "test")

local failure = test.fails("unknown key 'limt'", model.evaluate, model, { data = data, limt = 3 })
test.equal(type(failure), "table", "type of an error")
test.equal(failure.code, "invalid", "code")
test.equal(failure.hint, "did you mean 'limit'?", "hint")

test.fails("data is missing", model.evaluate, model, {})
test.fails("expected a dataset", model.evaluate, model, { data = "fashion" })
test.fails("no layer 'conv9'", model.saliency, model, "conv9")
test.fails("l3", model.saliency, model, "stem", "l3")
test.fails("[0", model.preview, model, { method = "wsp", ratio = 1.5 })
test.fails("groups", model.preview, model, { method = "sg", ratio = 0.5, groups = 0 })
test.fails("method", model.preview, model, { method = "wsb", ratio = 0.5 })
test.fails("epochs", model.train, model, { data = data, validation = data, epochs = 0 })
test.fails("shedule", model.train, model, { data = data, validation = data, epochs = 1, shedule = "step" })
test.fails("steep", model.train, model, { data = data, validation = data, epochs = 1, schedule = "steep" })
test.fails("missing.onnx", esp.load, "missing.onnx")
test.fails("no point", esp.plot, { series = {} }, "empty.png")
test.fails("as many", esp.plot, { series = { { x = { 1 }, y = {} } } }, "uneven.png")

-- wrong arguments are error tables too
local function is_table(part, f, ...)
    local raised = test.fails(part, f, ...)
    test.equal(type(raised), "table", part .. ": type of the error")
    test.equal(raised.code, "invalid", part .. ": code")
end
is_table("bad argument #1 to 'preview' (table expected, got nil)", function() model:preview() end)
is_table("bad argument #1 to 'load' (string expected, got nil)", function() esp.load(nil) end)
is_table("bad argument #1 to 'train' (table expected, got string)", function() model:train("fast") end)
is_table("(espalier.model expected, got espalier.data)", model.counts, data)
is_table("plan: ratio is nan, expected a finite number", model.preview, model, { method = "wsp", ratio = 0 / 0 })
is_table("plan: ratio.conv is inf", model.preview, model, { method = "wsp", ratio = { conv = 1 / 0 } })
is_table("plan: rules[1].ratio is a function", model.preview, model,
    { method = "wsp", ratio = 0.3, rules = { { layer = "stem", ratio = print } } })
is_table("did you mean 'flip'", model.train, model,
    { data = data, validation = data, epochs = 1, augment = { flp = true } })

-- an error inside a callback ends the training and keeps its message
test.fails("from inside", model.train, model, {
    data = data, validation = data, epochs = 1, on_epoch = function() error("from inside") end,
})

-- networks with mistakes
test.fails("unknown key 'filtres'", function()
    local net = esp.network("broken", { input = { 1, 8, 8 } })
    net:conv(net.input, { filtres = 3 })
end)

test.fails("filters is missing", function()
    local net = esp.network("broken", { input = { 1, 8, 8 } })
    net:conv(net.input)
end)
test.fails("input is missing", esp.network, "broken", {})
test.fails("unknown key 'clases'", esp.zoo.lenet5, { clases = 3 })
test.fails("unknown key 'depth'", esp.zoo.cifar_resnet, { depth = 3 })
