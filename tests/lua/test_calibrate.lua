-- What looks at images: saliency by every criterion, recalibration, reconstruction.
local esp = require "espalier"
local test = require "helpers"

local SIZE = 8
local spec = test.two_class_set(SIZE)
local training, testing = esp.data(spec, "train"), esp.data(spec, "test")
local trained = test.small_network(esp, SIZE):train {
    data = training, validation = testing, epochs = 6, batch = 16, lr = 0.05, seed = 5,
}

-- every criterion says something, the same twice, and of one layer what it says of all
local with_data = 0
for _, criterion in ipairs(esp.criteria()) do
    local name = criterion.name
    test.is_true(#criterion.definition > 0 and #criterion.source > 0, name .. " is documented")
    local scores = trained:saliency { criterion = name, data = training, images = 32, seed = 2 }
    test.equal(#scores.stem, 8, name .. ": scores of the stem")
    local again = trained:saliency { criterion = name, data = training, images = 32, seed = 2, layer = "stem" }
    for f = 1, 8 do
        test.is_true(scores.stem[f] >= 0, name .. ": no score below 0")
        test.equal(again[f], scores.stem[f], name .. ": filter " .. f)
    end
    if criterion.needs_data then
        with_data = with_data + 1
        test.fails("no data set", trained.saliency, trained, { criterion = name })
    end
end
test.is_true(with_data >= 4, "criteria that look at data")
test.equal(trained:saliency { criterion = "apoz", data = training }.fc, nil, "nothing gives zeros behind the last layer")
test.equal(#trained:saliency("stem", "lamp"), 8, "by layer and criterion alone")
test.fails("did you mean 'images'", trained.saliency, trained, { criterion = "taylor", data = training, image = 3 })

-- recalibration: other statistics, the same size; a second time the same
local recalibrated, report = trained:recalibrate { data = training, batch = 16 }
test.equal(report.images, 64, "images")
test.equal(report.batches, 4, "batches")
test.is_true(report.norms > 0, "there are batch-norms")
test.equal(recalibrated:counts().params, trained:counts().params, "parameters")
test.is_true(recalibrated:difference(trained) > 0, "other outputs")
test.equal(select(1, recalibrated:recalibrate { data = training, batch = 16 }:difference(recalibrated)), 0, "twice is once")
test.fails("data is missing", trained.recalibrate, trained, { images = 3 })

-- reconstruction: what was cut is made up for
local preview = trained:preview { method = "filter", criterion = "l1", ratio = 0.5 }
local cut = preview:cut()
local solved, solution = preview:reconstruct { data = training }
test.equal(solved:counts().params, cut:counts().params, "as small as the cut model")
test.equal(solution.images, 64, "images that were looked at")
test.is_true(#solution.layers > 0, "some layers lost input")
for _, layer in ipairs(solution.layers) do
    test.is_true(layer.left_for or layer.error_after <= layer.error_before, layer.name .. " is better")
end
test.is_true(solved:evaluate { data = testing }.loss < cut:evaluate { data = testing }.loss, "on other images too")
local masked = preview:reconstruct { data = training, masked = true }
test.is_true(masked:difference(solved) < 1e-3, "masked and cut agree")
test.fails("ridge", preview.reconstruct, preview, { data = training, ridge = -1 })
test.fails("form", preview.reconstruct, preview, { data = training, form = "round" })
