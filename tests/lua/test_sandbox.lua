-- What a script may not do: start processes, read bytecode, leave its directories.
local test = require "helpers"

for _, name in ipairs { "dofile", "loadfile", "rawexecute" } do
    test.equal(_G[name], nil, name)
end
for _, name in ipairs { "execute", "remove", "rename", "exit", "getenv", "setlocale", "tmpname" } do
    test.equal(os[name], nil, "os." .. name)
end
test.equal(io.popen, nil, "io.popen")
test.equal(io.stdout, nil, "io.stdout")
test.equal(string.dump, nil, "string.dump")
test.equal(package.loadlib, nil, "package.loadlib")
test.equal(debug.getregistry, nil, "debug.getregistry")
test.equal(debug.sethook, nil, "debug.sethook")
test.equal(getmetatable(""), "string", "the metatable of strings")

test.fails("outside the directories", io.open, "/etc/passwd")
test.fails("outside the directories", io.open, "../../../../../../etc/passwd")
test.fails("outside the directories", io.lines, "/etc/passwd")
test.equal(select(2, load("\27Lua", "bytecode", "b")) ~= nil, true, "bytecode is refused")
test.equal(load("return 1 + 1")(), 2, "text is loaded")

local esp = require "espalier"
local model = test.small_network(esp, 8)
test.fails("outside the directories", model.save, model, "/tmp/never-written.onnx")
test.fails("outside the directories", esp.plot, { series = { { x = { 1 }, y = { 1 } } } }, "/tmp/never-written.png")

local file = assert(io.open("inside.txt", "w"))
file:write("kept")
file:close()
test.equal(io.open("inside.txt"):read("a"), "kept", "a file in the current directory")

-- training holds what it was given, whatever its callback does to the table
local spec = test.two_class_set(8)
local options
options = {
    data = esp.data(spec, "train"), validation = esp.data(spec, "test"), epochs = 3,
    on_epoch = function()
        options.data, options.validation = nil, nil
        collectgarbage()
        collectgarbage()
    end,
}
local _, result = model:train(options)
test.equal(result.epochs_done, 3, "epochs of a training whose table was emptied")
test.equal(getmetatable(model), "espalier.model", "the metatable of models is out of reach")
test.equal(getmetatable(esp.data(spec)), "espalier.data", "and that of datasets")
test.equal(getmetatable(model:preview { method = "wsp", ratio = 0.4 }), "espalier.preview", "and that of previews")
