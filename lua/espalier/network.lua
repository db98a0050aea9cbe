-- Networks layer by layer. A value is an integer handle with the shape it has, so that layers know their inputs:
--
--   local net = network.new("tiny", { input = { 1, 28, 28 }, seed = 1 })
--   local x = net:relu(net:conv(net.input, { filters = 8, kernel = 3, pad = 1, name = "conv1" }))
--   net:output(net:dense(net:flatten(x), { units = 10, name = "fc" }))
--   local model = net:finish()
--
-- Weights are drawn as He et al. 2015 (normal, variance 2 / fan) with the seed given; `seed = false` leaves them zero, which
-- is quick and enough for shapes and counts.
local core = require "espalier.core"
local check = require "espalier.keys".check

local Network = {}
Network.__index = Network

local network = {}

function network.new(name, options)
    options = check(options, { "input", "seed", "opset" }, { "input" })
    local builder = core.builder(name, { seed = options.seed or 0, opset = options.opset or 13 })
    local self = setmetatable({ builder = builder, counters = {}, is_random = options.seed ~= false }, Network)
    local id = builder:input("input", options.input)
    self.input = { id = id, shape = options.input }
    return self
end

-- A name for a layer that was given none: "relu_3".
function Network:name(kind, given)
    if given then
        return given
    end
    self.counters[kind] = (self.counters[kind] or 0) + 1
    return kind .. "_" .. self.counters[kind]
end

-- A layer's weight: normal numbers of this variance.
function Network:weight(name, shape, variance)
    return self.builder:constant(name .. ".weight", shape, self.is_random and { std = math.sqrt(variance) } or nil)
end

local function value(id, ...)
    return { id = id, shape = { ... } }
end

local function output_size(size, kernel, stride, pad)
    return (size + 2 * pad - kernel) // stride + 1
end

-- { filters, kernel = 3, stride = 1, pad = 0, group = 1, bias = true, fan = "out", name }: `fan` is what keeps its variance,
-- gradients ("out") or activations ("in")
function Network:conv(x, options)
    options = check(options, { "filters", "kernel", "stride", "pad", "group", "bias", "fan", "name" }, { "filters" })
    local channels, height, width = x.shape[1], x.shape[2], x.shape[3]
    local filters, kernel = options.filters, options.kernel or 3
    local stride, pad, group = options.stride or 1, options.pad or 0, options.group or 1
    local name = self:name("conv", options.name)
    local fan = (options.fan == "in" and channels or filters) // group * kernel * kernel
    local inputs = { x.id, self:weight(name, { filters, channels // group, kernel, kernel }, 2 / fan) }
    if options.bias ~= false then
        inputs[3] = self.builder:constant(name .. ".bias", { filters })
    end
    local id = self.builder:node("Conv", inputs, { kernel_shape = { kernel, kernel }, strides = { stride, stride },
        pads = { pad, pad, pad, pad }, group = group }, name)
    return value(id, filters, output_size(height, kernel, stride, pad), output_size(width, kernel, stride, pad))
end

function Network:batch_norm(x, options)
    options = check(options, { "name" })
    local name = self:name("bn", options.name)
    local channels = x.shape[1]
    local id = self.builder:node("BatchNormalization", { x.id,
        self.builder:constant(name .. ".weight", { channels }, { fill = 1 }),
        self.builder:constant(name .. ".bias", { channels }),
        self.builder:constant(name .. ".running_mean", { channels }),
        self.builder:constant(name .. ".running_var", { channels }, { fill = 1 }) },
        { epsilon = 1e-5, momentum = 0.9 }, name)
    return { id = id, shape = x.shape }
end

function Network:relu(x, options)
    options = check(options, { "name" })
    return { id = self.builder:node("Relu", { x.id }, nil, self:name("relu", options.name)), shape = x.shape }
end

local function pool(self, operator, kind, x, options)
    options = check(options, { "kernel", "stride", "pad", "name" })
    local kernel = options.kernel or 2
    local stride, pad = options.stride or kernel, options.pad or 0
    local id = self.builder:node(operator, { x.id }, { kernel_shape = { kernel, kernel }, strides = { stride, stride },
        pads = { pad, pad, pad, pad } }, self:name(kind, options.name))
    return value(id, x.shape[1], output_size(x.shape[2], kernel, stride, pad),
        output_size(x.shape[3], kernel, stride, pad))
end

function Network:max_pool(x, options)
    return pool(self, "MaxPool", "maxpool", x, options)
end

function Network:average_pool(x, options)
    return pool(self, "AveragePool", "avgpool", x, options)
end

function Network:global_average_pool(x, options)
    options = check(options, { "name" })
    return value(self.builder:node("GlobalAveragePool", { x.id }, nil, self:name("gap", options.name)), x.shape[1], 1, 1)
end

function Network:flatten(x, options)
    options = check(options, { "name" })
    local features = 1
    for _, dim in ipairs(x.shape) do
        features = features * dim
    end
    return value(self.builder:node("Flatten", { x.id }, { axis = 1 }, self:name("flatten", options.name)), features)
end

-- { units, name, output }: `output` names the value it makes
function Network:dense(x, options)
    options = check(options, { "units", "name", "output" }, { "units" })
    local name = self:name("fc", options.name)
    local features = x.shape[1]
    local id = self.builder:node("Gemm", { x.id,
        self:weight(name, { options.units, features }, 1 / features),
        self.builder:constant(name .. ".bias", { options.units }) }, { transB = 1 }, name, options.output)
    return value(id, options.units)
end

function Network:add(a, b, options)
    options = check(options, { "name" })
    return { id = self.builder:node("Add", { a.id, b.id }, nil, self:name("add", options.name)), shape = a.shape }
end

-- Along the channels.
function Network:concat(values, options)
    options = check(options, { "name" })
    local ids, channels = {}, 0
    for i, item in ipairs(values) do
        ids[i] = item.id
        channels = channels + item.shape[1]
    end
    local first = values[1].shape
    return value(self.builder:node("Concat", ids, { axis = 1 }, self:name("concat", options.name)), channels, first[2],
        first[3])
end

function Network:dropout(x, options)
    options = check(options, { "ratio", "name" })
    local name = self:name("dropout", options.name)
    local ratio = self.builder:constant(name .. ".ratio", {}, { fill = options.ratio or 0.5 })
    return { id = self.builder:node("Dropout", { x.id, ratio }, nil, name), shape = x.shape }
end

function Network:output(x)
    self.builder:output(x.id)
end

function Network:finish()
    return self.builder:finish()
end

return network
