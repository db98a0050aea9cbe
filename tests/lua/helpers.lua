-- What the Lua tests share: checks, and a small labelled set in the current directory (which the test runner makes for
-- each test).
local helpers = {}

function helpers.equal(found, expected, what)
    if found ~= expected then
        error(("%s: found %s, expected %s"):format(what or "value", tostring(found), tostring(expected)), 2)
    end
end

function helpers.is_true(condition, what)
    if not condition then
        error((what or "condition") .. " does not hold", 2)
    end
end

-- Calls and expects an error whose text has `part`; returns the error value.
function helpers.fails(part, f, ...)
    local ok, failure = pcall(f, ...)
    if ok then
        error(("no error, expected one with '%s'"):format(part), 2)
    end
    local text = tostring(failure)
    if not text:find(part, 1, true) then
        error(("the error is '%s', expected '%s' in it"):format(text, part), 2)
    end
    return failure
end

local function write(path, bytes)
    local file = assert(io.open(path, "wb"))
    assert(file:write(bytes))
    assert(file:close())
end

local function images(count, size, offset)
    local pixels, labels = {}, {}
    for i = 1, count do
        local class = (i + offset) % 2
        local rows = {}
        for y = 1, size do
            local row = {}
            for x = 1, size do
                local is_lit = class == 0 and x <= size // 2 or class == 1 and y <= size // 2
                row[x] = string.char(is_lit and 200 + (i * 7 + x + y) % 50 or (i + x * y) % 40)
            end
            rows[y] = table.concat(row)
        end
        pixels[i], labels[i] = table.concat(rows), string.char(class)
    end
    return string.pack(">I4I4I4I4", 0x803, count, size, size) .. table.concat(pixels),
        string.pack(">I4I4", 0x801, count) .. table.concat(labels)
end

-- Two classes, lit on the left or at the top: IDX files in the current directory. Returns the dataset's spec.
function helpers.two_class_set(size)
    for name, count in pairs { train = 64, t10k = 32 } do
        local pixels, labels = images(count, size, count)
        write(name .. "-images-idx3-ubyte", pixels)
        write(name .. "-labels-idx1-ubyte", labels)
    end
    return "idx:."
end

-- A small residual network for it.
function helpers.small_network(esp, size)
    local net = esp.network("small", { input = { 1, size, size }, seed = 3 })
    local x = net:relu(net:batch_norm(net:conv(net.input, { filters = 8, pad = 1, bias = false, name = "stem" })))
    local y = net:relu(net:conv(x, { filters = 12, pad = 1, name = "block.conv1" }))
    y = net:conv(y, { filters = 8, pad = 1, name = "block.conv2" })
    x = net:relu(net:add(x, y))
    x = net:flatten(net:global_average_pool(x))
    net:output(net:dense(x, { units = 2, name = "fc", output = "logits" }))
    return net:finish():normalize { mean = { 0.3 }, std = { 0.3 } }
end

return helpers
