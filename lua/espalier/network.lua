-- Networks layer by layer. A value is an integer handle with the shape it has, so that layers know their inputs:
--
--   local net = network.new("tiny", { input = { 1, 28, 28 }, seed = 1 })
--   local x = net:relu(net:conv(net.input, { filters = 8, kernel = 3, pad = 1, name = "conv1" }))
--   net:output(net:dense(net:flatten(x), { units = 10, name = "fc" }))
--   local model = net:finish()
--
-- Weights are drawn: of convolutions as He et al. 2015 (normal, variance 2 / fan), of dense layers normal with variance
-- 1 / inputs; biases are 0, scales of batch-norms 1. `seed` decides the numbers; `seed = false` leaves weights zero, which
-- is quick and enough for shapes and counts.
--
-- `weights = "file.safetensors"` takes all parameters from the file instead, by name (NAME.weight, NAME.bias,
-- NAME.running_mean, NAME.running_var of the layer NAME): finish() then also returns what model:load_weights reports.
-- `strict = false` draws what the file does not have, or has in another shape; `prefix` stands in front of all names in the
-- file ("module."); where all share one it is found without.
local core = require "espalier.core"
local check = require "espalier.keys".check

local Network = {}
Network.__index = Network

local network = {}

function network.new(name, options)
    options = check(options, { "input", "seed", "opset", "weights", "strict", "prefix" }, { "input" })
    local weights = options.weights and core.weights(options.weights, { strict = options.strict, prefix = options.prefix })
    local builder = core.builder(name, { seed = options.seed or 0, opset = options.opset or 13, weights = weights })
    local is_drawn = options.seed ~= false and (weights == nil or options.strict == false)
    local self = setmetatable({ builder = builder, counters = {}, is_drawn = is_drawn }, Network)
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
    return self.builder:parameter(name .. ".weight", shape, self.is_drawn and { std = math.sqrt(variance) } or nil)
end

local function value(id, ...)
    return { id = id, shape = { ... } }
end

-- `is_ceil`: a window may hang over the end, as long as it begins inside.
local function output_size(size, kernel, stride, pad, is_ceil)
    local room = size + 2 * pad - kernel
    if is_ceil and room % stride ~= 0 and (room // stride + 1) * stride < size + pad then
        return room // stride + 2
    end
    return room // stride + 1
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
        inputs[3] = self.builder:parameter(name .. ".bias", { filters })
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
        self.builder:parameter(name .. ".weight", { channels }, { fill = 1 }),
        self.builder:parameter(name .. ".bias", { channels }),
        self.builder:parameter(name .. ".running_mean", { channels }),
        self.builder:parameter(name .. ".running_var", { channels }, { fill = 1 }) },
        { epsilon = 1e-5, momentum = 0.9 }, name)
    return { id = id, shape = x.shape }
end

function Network:relu(x, options)
    options = check(options, { "name" })
    return { id = self.builder:node("Relu", { x.id }, nil, self:name("relu", options.name)), shape = x.shape }
end

-- Values between two bounds: ReLU6 is { min = 0, max = 6 }.
function Network:clip(x, options)
    options = check(options, { "min", "max", "name" }, { "min", "max" })
    local name = self:name("clip", options.name)
    local id = self.builder:node("Clip", { x.id, self.builder:constant(name .. ".min", {}, { fill = options.min }),
        self.builder:constant(name .. ".max", {}, { fill = options.max }) }, nil, name)
    return { id = id, shape = x.shape }
end

-- { kernel = 2, stride = kernel, pad = 0, ceil = false, name }: with `ceil` the last window may hang over the end.
local function pool(self, operator, kind, x, options)
    options = check(options, { "kernel", "stride", "pad", "ceil", "name" })
    local kernel = options.kernel or 2
    local stride, pad, is_ceil = options.stride or kernel, options.pad or 0, options.ceil or false
    local id = self.builder:node(operator, { x.id }, { kernel_shape = { kernel, kernel }, strides = { stride, stride },
        pads = { pad, pad, pad, pad }, ceil_mode = is_ceil and 1 or nil }, self:name(kind, options.name))
    return value(id, x.shape[1], output_size(x.shape[2], kernel, stride, pad, is_ceil),
        output_size(x.shape[3], kernel, stride, pad, is_ceil))
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

-- { name, output }: `output` names the value it makes
function Network:flatten(x, options)
    options = check(options, { "name", "output" })
    local features = 1
    for _, dim in ipairs(x.shape) do
        features = features * dim
    end
    local name = self:name("flatten", options.name)
    return value(self.builder:node("Flatten", { x.id }, { axis = 1 }, name, options.output), features)
end

-- { units, name, output }: `output` names the value it makes
function Network:dense(x, options)
    options = check(options, { "units", "name", "output" }, { "units" })
    local name = self:name("fc", options.name)
    local features = x.shape[1]
    local id = self.builder:node("Gemm", { x.id,
        self:weight(name, { options.units, features }, 1 / features),
        self.builder:parameter(name .. ".bias", { options.units }) }, { transB = 1 }, name, options.output)
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

-- Every `stride`-th row and column.
function Network:subsample(x, options)
    options = check(options, { "stride", "name" }, { "stride" })
    local name, stride = self:name("subsample", options.name), options.stride
    local id = self.builder:node("Slice", { x.id, self.builder:integers(name .. ".starts", { 0, 0 }),
        self.builder:integers(name .. ".ends", { math.maxinteger, math.maxinteger }),
        self.builder:integers(name .. ".axes", { 2, 3 }), self.builder:integers(name .. ".steps", { stride, stride }) },
        nil, name)
    return value(id, x.shape[1], (x.shape[2] - 1) // stride + 1, (x.shape[3] - 1) // stride + 1)
end

-- Channels of zeros in front and behind.
function Network:pad_channels(x, options)
    options = check(options, { "before", "after", "name" }, { "before", "after" })
    local name = self:name("pad", options.name)
    local pads = self.builder:integers(name .. ".pads", { 0, options.before, 0, 0, 0, options.after, 0, 0 })
    return value(self.builder:node("Pad", { x.id, pads }, { mode = "constant" }, name),
        x.shape[1] + options.before + options.after, x.shape[2], x.shape[3])
end

function Network:dropout(x, options)
    options = check(options, { "ratio", "name" })
    local name = self:name("dropout", options.name)
    local ratio = self.builder:constant(name .. ".ratio", {}, { fill = options.ratio or 0.5 })
    return { id = self.builder:node("Dropout", { x.id, ratio }, nil, name), shape = x.shape }
end

function Network:output(x)
    self.builder:output(x.id, x.shape)
end

-- The model; with `weights` also { loaded =, missing =, unexpected =, mismatched = }.
function Network:finish()
    return self.builder:finish()
end

return network
