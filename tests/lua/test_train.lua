-- Training from Lua: optimizers, schedules, distillation, freezing, checkpoints, other classes; and what unknown words are
-- told.
local esp = require "espalier"
local test = require "helpers"

local SIZE = 8
local spec = test.two_class_set(SIZE)
local training, testing = esp.data(spec, "train"), esp.data(spec, "test")
local model = test.small_network(esp, SIZE)

local function train(options)
    for key, value in pairs { data = training, validation = testing, epochs = 2, batch = 16, lr = 0.05, seed = 5 } do
        if options[key] == nil then options[key] = value end
    end
    return model:train(options)
end

-- the same bits, or others
local function is_same(a, b) return select(1, a:difference(b)) == 0 end
local plain = train {}

-- every option makes a difference
for name, options in pairs {
    adamw = { optimizer = "adamw", lr = 0.01 }, adam = { optimizer = "adam", lr = 0.01, beta1 = 0.5, weight_decay = 0 },
    dampening = { dampening = 0.5 }, smoothing = { label_smoothing = 0.2 }, norm = { clip_norm = 0.01 },
    value = { clip_value = 0.001 }, ema = { ema = 0.5 }, mixup = { augment = { mixup = 0.3 } }, crop = { augment = "crop=1" },
    teacher = { teacher = plain, distill = 0.8, temperature = 2 }, onecycle = { schedule = { kind = "onecycle", lr = 0.1 } },
    parts = { schedule = { parts = { { kind = "constant", lr = 0.02, epochs = 1 }, { kind = "exponential", gamma = 0.5 } } } },
    rate = { schedule = function(epoch, step) return step < 4 and 0.1 or 0.01 * (2 - epoch) end },
    lasso = { group_lasso = 0.01 }, warmup = { schedule = { kind = "cosine" }, warmup = 1 }, freeze = { freeze = { "stem*", "block.conv1" } },
} do
    test.is_true(not is_same(train(options), plain), name .. " makes a difference")
end
test.is_true(is_same(train { schedule = { kind = "cosine", lr = 0.05 } }, plain), "the default is a cosine")
test.is_true(is_same(train { schedule = function(epoch) return 0.05 * (1 + math.cos(math.pi * epoch / 2)) / 2 end,
    momentum = 0.9 }, plain), "a function that is the cosine gives its bits")

-- what the functions are told
local epochs, steps, rates = 0, 0, 0
local _, result = train {
    schedule = function(epoch, step)
        test.equal(epoch, step / 4, "epoch of a step")
        rates = rates + 1
        return 0.01
    end,
    on_step = function(report)
        steps = steps + 1
        test.equal(report.step, steps, "step")
        test.equal(report.lr, 0.01, "rate")
        test.is_true(report.loss > 0 and report.top5 == 100, "figures of a step")
    end,
    on_epoch = function(report)
        epochs = epochs + 1
        test.equal(report.train_top5, 100, "top-5")
    end,
}
test.equal(epochs, 2, "epochs told")
test.equal(steps, 8, "steps told")
test.equal(rates, 8, "rates asked for")
test.equal(result.stopped_early, false, "not stopped")
test.equal(select(2, train { patience = 1, lr = 1e-9, epochs = 9, min_delta = 1 }).stopped_early, true, "stopped")

-- a share of the training images instead of a validation set; a dataset in two by seed
local _, held = train { validation = 0.25 }
test.equal(held.best.images, 16, "images held back")

-- or none: all images train, nothing is measured, the newest weights count
local last, unmeasured = train { validation = false, lr = 0.3, on_epoch = function(report)
    test.equal(report.validation, nil, "no figures of validation")
end }
test.equal(unmeasured.best, nil, "nothing was measured")
test.is_true(is_same(last, train { lr = 0.3, validation = training, resume = nil, patience = 0 }) or
    unmeasured.best_epoch == 2, "the newest weights")

-- checkpoints: cut by an error, gone on, the same bits
local function cut_at_5(report) if report.step == 5 then error("enough") end end
test.fails("on_step: ", train, { checkpoint = "a.ckpt", checkpoint_steps = 1, on_step = cut_at_5 })
local resumed, second = train { resume = "a.ckpt" }
test.equal(second.resumed_step, 4, "steps of the run before")
test.is_true(is_same(resumed, plain), "resumed training is the uninterrupted one")
test.fails("its batch is 16.0, found 8.0", train, { resume = "a.ckpt", batch = 8 })
test.fails("its schedule is", train, { resume = "a.ckpt", lr = 0.04 })
test.fails("none.ckpt", train, { resume = "none.ckpt" })
test.fails("no checkpoint", train, { resume = "t10k-labels-idx1-ubyte" })
test.fails("outside the directories", train, { checkpoint = "/a.ckpt" })

train { checkpoint = "lasso.ckpt", group_lasso = 0.01 }
test.fails('its note is "group lasso 0.01"', train, { resume = "lasso.ckpt", group_lasso = 0.02 })

-- other classes
local other = model:replace_classifier(5, 1)
test.equal(other:layers()[4].filters, 5, "filters of the new last layer")
test.is_true(is_same(other, model:replace_classifier(5, 1)), "by seed")
test.fails("it knows 2 classes, the model 5", other.train, other, { data = training, validation = testing, epochs = 1, teacher = model })

-- errors name what was meant
test.fails("did you mean 'optimizer'", train, { optimiser = "sgd" })
test.fails("did you mean 'adamw'", train, { optimizer = "adamww" })
test.fails("did you mean 'cosine'", train, { schedule = "cosin" })
test.fails("did you mean 'milestones'", train, { schedule = { kind = "step", milestone = { 1 } } })
test.fails("did you mean 'recalibrate'", train, { norm = "recalibrat" })
test.fails("did you mean 'block.conv1'", train, { freeze = "blok.conv1" })
test.fails("did you mean 'mixup'", train, { augment = "mixpu=1" })
test.fails("schedule: lr is nan, expected a finite number", train, { schedule = { kind = "cosine", lr = 0 / 0 } })
test.fails("learning rate -1", train, { schedule = function() return -1 end })
test.fails("found string", train, { schedule = function() return "x" end })
-- keys that would do nothing are refused, as on the command line
for message, options in pairs {
    ["beta1 is for optimizers adam and adamw, found sgd"] = { beta1 = 0.5 },
    ["dampening is for optimizer sgd, found adam"] = { optimizer = "adam", dampening = 0.5 },
    ["nesterov is for optimizer sgd, found adamw"] = { optimizer = "adamw", nesterov = true },
    ["temperature is for a training with a teacher"] = { temperature = 2 },
    ["distill is for a training with a teacher"] = { distill = 0.5 },
    ["min_delta is for a training with patience"] = { min_delta = 0.1 },
    ["recalibrate_images is for norm recalibrate, found train"] = { recalibrate_images = 8 },
    ["gamma is for schedules step, multistep, exponential and plateau, found cosine"] = { gamma = 0.5 },
    ["cooldown is for schedule plateau, found cosine"] = { cooldown = 1 },
    ["every is for drops without milestones"] = { schedule = "step", every = 1, milestones = { 1 } },
    ["warmup is for a schedule by its word, found a function"] = { warmup = 1, schedule = function() return 0.1 end },
    ["min_lr is for a schedule by its word, found a table"] = { min_lr = 0.1, schedule = { kind = "cosine" } },
    ["checkpoint_steps is for a training with a checkpoint"] = { checkpoint_steps = 1 },
} do
    test.fails(message, train, options)
end
test.is_true(is_same(train { optimizer = "adam", lr = 0.01, nesterov = false }, train { optimizer = "adam", lr = 0.01 }), "false is no use")
test.fails("teacher: found table", train, { teacher = {} })
test.fails("freeze: entry 2 is number", train, { freeze = { "stem*", 3 } })
test.fails("EMA decay 1", train, { ema = 1 })
test.fails("share of 1.5", train, { validation = 1.5 })
test.fails("training diverged at step", train, { lr = 1e30 })
