-- The start of every network of the zoo: the options that all of them take, checked, and the empty network.
local core = require "espalier.core"
local check = require "espalier.keys".check
local network = require "espalier.network"

local shared = { "input", "classes", "seed", "weights", "strict", "prefix" }

local function is_whole(value, least)
    return math.type(value) == "integer" and value >= least
end

local function is_size(input, least)
    return type(input) == "table" and #input == 3 and is_whole(input[1], 1) and is_whole(input[2], least)
        and is_whole(input[3], least)
end

-- What an option must be, told by its default; nil when it is.
local function wrong(value, default)
    if math.type(default) == "integer" then
        return not is_whole(value, 1) and "a whole number of at least 1"
    elseif math.type(default) == "float" then
        return not (math.type(value) and value > 0 and value < math.huge) and "a number above 0"
    end
    return type(value) ~= type(default) and "a " .. type(default)
end

-- `defaults` has `input`, `classes`, `least` (rows and columns that the network's halvings need) and the network's own
-- options. `name` may be a function of the options. Returns the network and its options. Blame for wrong ones goes to the
-- caller of the function that starts.
return function(name, options, defaults)
    local allowed = table.move(shared, 1, #shared, 1, {})
    local own = {}
    for key in pairs(defaults) do
        if key ~= "input" and key ~= "classes" and key ~= "least" then
            own[#own + 1] = key
        end
    end
    table.sort(own)
    options = check(options, table.move(own, 1, #own, #allowed + 1, allowed), nil, 1)
    local result = {}
    for key, value in pairs(defaults) do
        result[key] = value
        if options[key] ~= nil then
            result[key] = options[key]
        end
        local expected = wrong(result[key], value)
        if expected then
            core.fail(("%s: found %s, expected %s"):format(key, tostring(result[key]), expected), 3)
        end
    end
    if not is_size(result.input, defaults.least) then
        core.fail(("input: expected {channels, height, width} of at least %d x %d"):format(defaults.least, defaults.least), 3)
    end
    name = type(name) == "function" and name(result) or name
    return network.new(name, { input = result.input, seed = options.seed, weights = options.weights, strict = options.strict,
        prefix = options.prefix }), result
end
