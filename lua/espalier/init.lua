-- Espalier for scripts: local esp = require "espalier".
--
--   esp.load(path)                  a model from an ONNX file
--   esp.data(spec, "train"|"test"|"validation")  a dataset: "fashion-mnist", "idx:DIR", "cifar10:DIR", "cifar100:DIR",
--                                   "folder:DIR", "npy:DIR"; or esp.data(spec, {split=, model=, resize=, crop=, val=, skip_bad=})
--   esp.augmentation(words)         {crop=4, flip=true, jitter=0.4} as the text that train's augment= takes, checked
--   esp.plot(figure, path)          a figure by gnuplot: .png, .svg or .pdf
--   esp.table(rows)                 rows of cells as aligned text
--   esp.zoo                         known networks, with random weights or those of a safetensors file (espalier.zoo)
--   esp.network(name, options)      a network built layer by layer (espalier.network)
--   esp.plan_diff(a, b, {model=})   what differs between two plans, and for a model layer by layer
--   esp.plan_merge(a, b, {side=})   b's rules over a's: the plan, and the conflicts
--   esp.criteria()                  what saliency and method `filter` can rank by: {name=, definition=, needs_data=, ...}
--   esp.count(n), esp.version
--
-- A model has: layers, counts, saliency, recalibrate, sensitivity, evaluate, bench, preview, train, replace_classifier (other classes), save, load_weights, save_weights, difference,
-- groups (how well filters fall into groups), prune_gradually (pruning schedules over training), metadata, with_metadata, normalize, solve (ratios from targets), fit_plan (a plan on a changed model). A preview has: table, ledger (why not as asked), explain(layer, channel), before, after, stored, nothing, mask, masked, cut, reconstruct, save_plan. Functions take
-- keywords as one table; an unknown key is an error that names the nearest. Errors are tables {code, message, hint}.
local core = require "espalier.core"
local network = require "espalier.network"

local esp = {
    load = core.load,
    data = core.data,
    augmentation = core.augmentation,
    plot = core.plot,
    criteria = core.criteria,
    plan_diff = core.plan_diff,
    plan_merge = core.plan_merge,
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
