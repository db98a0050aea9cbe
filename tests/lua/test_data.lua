-- Data sets of files in Lua: opening with options, splitting, fitting to a model, bad images, augmentations as tables.
local esp = require "espalier"
local test = require "helpers"

local function write(path, bytes)
    local file = assert(io.open(path, "wb"))
    assert(file:write(bytes))
    assert(file:close())
end

-- npy: the sandbox makes no directories, and an array needs none
local count, size = 20, 8
local pixels, labels = {}, {}
for i = 1, count do
    local class = i % 2
    labels[i] = string.pack("<i8", class)
    for y = 0, size - 1 do
        for x = 0, size - 1 do
            pixels[#pixels + 1] = string.char((class == 0 and x or y) < size / 2 and 220 or 20)
        end
    end
end
local function npy(kind, shape, data)
    local header = ("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }"):format(kind, shape)
    header = header .. (" "):rep(117 - #header) .. "\n"
    return "\x93NUMPY\1\0" .. string.pack("<I2", #header) .. header .. data
end
for _, part in ipairs { "train", "test" } do
    write("x_" .. part .. ".npy", npy("|u1", "20, 8, 8", table.concat(pixels)))
    write("y_" .. part .. ".npy", npy("<i8", "20,", table.concat(labels)))
end

local data = esp.data("npy:.", "test")
test.equal(#data, 20, "images")
test.equal(data:info().lazy, true, "read when they are asked for")
test.equal(data:info().height, 8, "height")
test.equal(esp.data("npy:.", { split = "train", val = 0.2, seed = 3 }):info().images, 16, "training images")
test.equal(#esp.data("npy:.", { split = "validation", val = 0.2, seed = 3 }), 4, "validation images")
test.equal(esp.data("npy:.", { resize = 16, crop = "12x10" }):info().width, 10, "width of a crop")
test.equal(esp.data("npy:.?crop=6", { channels = 3 }):info().channels, 3, "channels asked for")

local rest, held = data:split(0.3, 1)
test.equal(#rest + #held, 20, "both parts")
test.equal(#held, 6, "the share")
test.fails("0 < share < 1", data.split, data, 1.5)

test.fails("did you mean 'resize'", esp.data, "npy:.", { resise = 3 })
test.fails("expected train, test or validation", esp.data, "npy:.", "valid")
test.fails("option 'crop'", esp.data, "npy:.", { crop = "wide" })
test.fails("option 'test'", esp.data, "npy:.", { test = 0.5 })

-- a model of another size takes the images at its own
local model = test.small_network(esp, 12)
test.equal(data:fit(model):info().height, 12, "height for a model")
test.equal(esp.data("npy:.", { model = model }):info().width, 12, "width for a model")
local trained = model:train { data = esp.data("npy:.", "train"), validation = data, epochs = 8, batch = 10, lr = 0.05,
    augment = esp.augmentation { crop = 1, brightness = 0.1, mixup = 0.1 } }
test.equal(trained:evaluate { data = data }.top1, 100.0, "accuracy on two clear classes")

-- an array that ends too early is told when it is opened
write("x_test.npy", npy("|u1", "20, 8, 8", table.concat(pixels):sub(1, -2)))
test.fails("truncated", esp.data, "npy:.", "test")

test.equal(esp.augmentation "flip,crop=2", "crop=2,flip", "canonical text")
test.equal(esp.augmentation { resized = { 0.25, 1 }, flip = true, cutout = false }, "flip,resized=0.25:1", "from a table")
test.equal(esp.augmentation {}, "", "nothing")
test.fails("did you mean 'cutout'?", esp.augmentation, { cutuot = 3 })
test.fails("hue", esp.augmentation, { hue = 0.7 })
test.fails("range", esp.augmentation, { resized = { 1, 2, 3 } })

-- a file is no folder
test.fails("expected a directory", esp.data, "folder:x_test.npy")
