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

-- every function of the library raises tables that say what, where, found and expected
local core = require "espalier.core"
local function fresh()
    return core.builder("net")
end
is_table("bad argument #1 to 'builder' (string expected, got no value)", function() core.builder() end)
is_table("bad argument #1 to 'input' (string expected, got table)", function() fresh():input({}, { 1, 8, 8 }) end)
is_table("shape[2]: found 8.5, expected a whole number", function() fresh():input("x", { 1, 8.5, 8 }) end)
is_table("shape[1]: found a boolean, expected a whole number", function() fresh():input("x", { true }) end)
is_table("shape[3]: found 0, expected at least 1", function() fresh():input("x", { 1, 8, 0 }) end)
is_table("bad argument #2 to 'input' (table expected, got number)", function() fresh():input("x", 3) end)
is_table("values[2]: found a string, expected a whole number", function() fresh():integers("s", { 1, "2" }) end)
is_table("inputs[1]: found a string, expected a whole number", function() fresh():node("Relu", { "x" }) end)
is_table("value 1099511627776: expected the number of a value", function() fresh():node("Relu", { 1 << 40 }) end)
is_table("attribute axis: found a function, expected a number, a string or a list", function()
    local it = fresh()
    it:node("Softmax", { it:input("x", { 3 }) }, { axis = print })
end)
is_table("attribute pads[2]: found 0.5, expected a whole number", function()
    local it = fresh()
    it:node("MaxPool", { it:input("x", { 1, 8, 8 }) }, { pads = { 1, 0.5 } })
end)
is_table("bad argument #1 to 'output' (whole number expected, got string)", function() fresh():output("x") end)
is_table("bad argument #1 to 'weights' (string expected, got no value)", function() core.weights() end)
is_table("bad argument #1 to 'load_weights' (string expected, got table)", function() model:load_weights({}) end)
is_table("bad argument #1 to 'save_weights' (string expected, got no value)", function() model:save_weights() end)
is_table("bad argument #1 to 'solve' (table expected, got no value)", function() model:solve() end)
is_table("keep[2]: found 3, expected a string", model.solve, model,
    { target = { macs = 0.5 }, plan = { method = "wsp" }, keep = { "fc", 3 } })
is_table("keep[1]: found 'dense', expected conv, fc or border", model.solve, model,
    { target = { macs = 0.5 }, plan = { method = "wsp" }, keep = { "dense" } })
is_table("layer[2]: found 7, expected a string", model.groups, model, { layer = { "stem", 7 } })
is_table("layer: found a boolean, expected a name", model.groups, model, { layer = true })
is_table("unknown layer 'stm', did you mean 'stem'", model.groups, model, { layer = "stm" })
is_table("unknown layer 'block.conv3', did you mean 'block.conv1'", function()
    model:preview({ method = "wsp", ratio = 0.2 }):explain("block.conv3", 0)
end)
is_table("bad argument #1 to 'sensitivity' (table expected, got no value)", function() model:sensitivity() end)
is_table("ratios[2]: found a string, expected a finite number", model.sensitivity, model,
    { data = data, ratios = { 0.1, "0.2" } })
is_table("ratios: found 0 numbers, expected 1 to 99", model.sensitivity, model, { data = data, ratios = {} })
is_table("layers[1]: found a table, expected a string", model.sensitivity, model, { data = data, layers = { {} } })
is_table("plan: ratio is a function", model.sensitivity, model, { data = data, plan = { method = "wsp", ratio = print } })
is_table("plan: found a boolean, expected a table", model.groups, model, { plan = true })
is_table("plan: found a boolean, expected a table", model.solve, model, { target = { macs = 0.5 }, plan = true })
is_table("bad argument #2 to 'difference' (whole number expected, got string)",
    function() model:difference(model, "seed") end)
is_table("bad argument #2 to 'with_metadata' (string expected, got table)",
    function() model:with_metadata("key", {}) end)
is_table("mean: found a number, expected a list", model.normalize, model, { mean = 0.3, std = { 0.3 } })
is_table("std[1]: found a string, expected a finite number", model.normalize, model, { mean = { 0.3 }, std = { "1" } })
is_table("bad argument #2 to 'plot' (string expected, got no value)", function() esp.plot { series = {} } end)
is_table("series[1]: found a number, expected a table {title=, x=, y=}", esp.plot, { series = { 3 } }, "x.png")
is_table("x: found a string, expected a list of numbers", esp.plot, { series = { { x = "1", y = { 1 } } } }, "x.png")
is_table("labels[1]: found a table, expected a string", esp.plot,
    { series = { { x = { 1 }, y = { 1 }, labels = { {} } } } }, "x.png")
is_table("bad argument #2 to 'nearest' (table expected, got no value)", function() core.nearest("word") end)
is_table("bad argument #1 to 'open' (string expected, got no value)", function() io.open() end)
is_table("bad argument #2 to 'xpcall' (function expected, got no value)", function() xpcall(print) end)
is_table("bad argument #1 to 'write' (string expected, got table)", function() io.write({}) end)

-- every table of options refuses what it does not know, with the nearest, or all where none is near
local preview = model:preview { method = "wsp", ratio = 0.2 }
local wsp = { method = "wsp", ratio = 0.2 }
for name, call in pairs {
    evaluate = function(o) model:evaluate(o) end,
    bench = function(o) model:bench(o) end,
    coupling = function(o) model:coupling(o) end,
    groups = function(o) model:groups(o) end,
    sensitivity = function(o) model:sensitivity(o) end,
    solve = function(o) model:solve(o) end,
    preview = function(o) model:preview(wsp, o) end,
    plan = function(o) model:preview(o) end,
    fit_plan = function(o) model:fit_plan(wsp, o) end,
    normalize = function(o) model:normalize(o) end,
    load_weights = function(o) model:load_weights("w.safetensors", o) end,
    saliency = function(o) model:saliency(o) end,
    recalibrate = function(o) model:recalibrate(o) end,
    train = function(o) model:train(o) end,
    prune_gradually = function(o) model:prune_gradually(o) end,
    table = function(o) preview:table(o) end,
    cut = function(o) preview:cut(o) end,
    reconstruct = function(o) preview:reconstruct(o) end,
    plan_diff = function(o) esp.plan_diff(wsp, wsp, o) end,
    plan_merge = function(o) esp.plan_merge(wsp, wsp, o) end,
    plot = function(o) esp.plot(o, "x.png") end,
    series = function(o) esp.plot({ series = { o } }, "x.png") end,
    data = function(o) esp.data(spec, o) end,
    builder = function(o) core.builder("net", o) end,
    weights = function(o) core.weights("w.safetensors", o) end,
    constant = function(o) fresh():constant("c", { 1 }, o) end,
    parameter = function(o) fresh():parameter("c", { 1 }, o) end,
    network = function(o) esp.network("net", o) end,
    zoo = function(o) esp.zoo.lenet5(o) end,
} do
    local ok, raised = pcall(call, { method = name == "plan" and "wsp" or nil, qqqqqqqqq = 1 })
    test.equal(ok, false, name .. " with an unknown key")
    test.equal(type(raised), "table", name .. ": type of the error " .. tostring(raised))
    test.equal(raised.code, "invalid", name .. ": code")
    test.is_true(tostring(raised):find("unknown key 'qqqqqqqqq'", 1, true) ~= nil, name .. ": " .. tostring(raised))
    test.is_true(tostring(raised):find("known: ", 1, true) or tostring(raised):find("expected ", 1, true),
        name .. " says what it knows: " .. tostring(raised))
end
