-- Espalier for scripts: local esp = require "espalier".
--
--   esp.load(path)                  a model from an ONNX file
--   esp.data(spec, "train"|"test")  a dataset: "fashion-mnist", "idx:DIR", "cifar10:DIR"
--   esp.plot(figure, path)          a figure by gnuplot: .png, .svg or .pdf
--   esp.table(rows)                 rows of cells as aligned text
--   esp.zoo                         known networks, with random weights or those of a safetensors file (espalier.zoo)
--   esp.network(name, options)      a network built layer by layer (espalier.network)
--   esp.count(n), esp.version
--
-- A model has: layers, counts, saliency, evaluate, bench, preview, train, save, load_weights, save_weights, difference,
-- metadata, with_metadata, normalize. A preview has: table, before, after, mask, masked, cut, save_plan. Functions take
-- keywords as one table; an unknown key is an error that names the nearest. Errors are tables {code, message, hint}.
local core = require "espalier.core"
local network = require "espalier.network"

local esp = {
    load = core.load,
    data = core.data,
    plot = core.plot,
    version = core.version,
    network = network.new,
    zoo = require "espalier.zoo",
    table = require "espalier.table",
}

-- Counts as people in this field write them: 270.9k, 25.55M, 4.089G.
function esp.count(n)
    for _, unit in ipairs { { 1e9, "G" }, { 1e6, "M" }, { 1e3, "k" } } do
        if n >= unit[1] then
            local value = n / unit[1]
            local digits = value < 10 and 3 or value < 100 and 2 or 1
            return string.format("%." .. digits .. "f%s", value, unit[2])
        end
    end
    return string.format("%.0f", n)
end

return esp
