-- Pruning schedules over training.
local esp = require "espalier"
local test = require "helpers"

local SIZE = 8
local spec = test.two_class_set(SIZE)
local training, testing = esp.data(spec, "train"), esp.data(spec, "test")
local model = test.small_network(esp, SIZE):train {
    data = training, validation = testing, epochs = 6, batch = 16, lr = 0.05, seed = 5,
}

local function run(options)
    local all = {
        data = training, validation = testing, batch = 16, lr = 0.05, seed = 5, epochs = 1, local_epochs = 1,
        plan = { method = "sg", ratio = 0.4, groups = 3 }, schedule = "lg", step = 0.2,
    }
    for key, value in pairs(options) do
        all[key] = value
    end
    return model:prune_gradually(all)
end

local events, epochs = {}, 0
local masked, result = run {
    on_event = function(event) events[#events + 1] = event end,
    on_epoch = function(epoch) epochs = epochs + 1 test.is_true(epoch.lr > 0, "learning rate") end,
}
test.equal(result.steps, 2, "steps")
test.equal(#result.records, 3, "records: two steps and the end")
test.equal(#events, 5, "events")
test.equal(events[1].event, "pruned", "the first event")
test.equal(events[2].event, "trained", "the second event")
test.equal(events[5].event, "tuned", "the last event")
test.equal(events[3].ratio, 0.4, "ratio of the second step")
test.equal(events[3].steps, 2, "steps in an event")
test.is_true(events[2].trained_top1 > 0 and events[1].trained_top1 == nil, "accuracies of before and after training")
test.equal(epochs, 4, "epochs: two times one, and one at the end with the measurement before it")
test.is_true(masked:counts().params < model:counts().params, "smaller")
test.equal(result.records[2].params, masked:counts().params, "parameters of the last step")
test.is_true(masked:evaluate { data = testing }.top1 > 85, "and good")

-- the same in another form: a table, and the cut model
local cut = run { schedule = { schedule = "lg", step = 0.2 }, cut = true }
test.equal(cut:counts().params, masked:counts().params, "parameters of the cut model")
test.is_true(cut:difference(masked) < 1e-3, "the cut model is the masked one")

-- every kind; AGP rises fast
for _, kind in ipairs { "one-shot", "g", "l", "linear", "agp" } do
    local _, r = run { schedule = kind, steps = 2 }
    test.equal(r.records[#r.records].ratio, 0.4, kind .. ": ratio at the end")
end
local _, agp = run { schedule = "agp", steps = 2, epochs = 0 }
test.is_true(math.abs(agp.records[1].ratio - (0.4 - 0.4 / 8)) < 1e-12, "AGP half-way")

-- interrupted by its own callback, then resumed: the same network as in one go
test.fails("enough", run, {
    state = "run.json", on_event = function(event) if event.step == 2 then error "enough" end end,
})
local resumed, r = run { state = "run.json", resume = true }
test.equal(r.resumed_steps, 1, "steps taken over")
test.equal(select(1, resumed:difference(masked)), 0, "difference of a resumed run")
test.equal(io.open("run.json"), nil, "the state after the end")

-- the same inside the training of the second step: its fifth optimizer step and those before it are not done again
local steps = 0
test.fails("enough", run, {
    state = "run.json", checkpoint_steps = 1,
    on_step = function() steps = steps + 1 if steps == 7 then error "enough" end end,
})
test.fails("its batch is 16", run, { state = "run.json", resume = true, batch = 8 })
test.fails("another pruning schedule", run, { state = "run.json", resume = true, local_lr = 0.01 })
resumed, r = run { state = "run.json", resume = true }
test.equal(r.resumed_steps, 1, "steps taken over")
test.equal(r.resumed_training_step, 2, "steps of training taken over")
test.equal(select(1, resumed:difference(masked)), 0, "difference of a run resumed inside a phase")
test.equal(io.open("run.json.training"), nil, "the training after the end")
test.fails("no state to resume in run.json", run, { state = "run.json", resume = true })
test.fails("needs its state file", run, { resume = true })

-- a share of the training images to validate on, another optimizer
local _, adam = run { validation = 0.25, optimizer = "adam", lr = 0.01, norm = "frozen", augment = "flip" }
local _, by_table = run { validation = 0.25, optimizer = "adam", lr = 0.01, norm = "frozen", augment = { flip = true } }
test.equal(by_table.last.loss, adam.last.loss, "augment as text and as a table")
test.equal(adam.last.images, 16, "a quarter of 64 images")

-- published settings, and a group lasso
local _, preset = model:prune_gradually {
    preset = "sg-cnn", ratio = 0.2, data = training, validation = testing, local_epochs = 0, epochs = 0, group_lasso = 1e-4,
}
test.equal(preset.steps, 2, "steps of 0.1")

test.fails("did you mean", run, { local_epoch = 1 })
test.fails("lgg", run, { schedule = "lgg" })
test.fails("'schedule' is missing", run, { schedule = { step = 0.1 } })
test.fails("step is -1", run, { step = -1 })
test.fails("no data to train on", function()
    model:prune_gradually { plan = { method = "sg", ratio = 0.2 }, schedule = "lg" }
end)
test.fails("either plan or preset", function() model:prune_gradually { schedule = "lg", data = training } end)
test.fails("expected a function", run, { on_event = 3 })
-- everything training takes, a teacher too
local _, full = run {
    optimizer = "adamw", lr = 1e-3, lr_schedule = { kind = "cosine", warmup = 0.2 }, label_smoothing = 0.1, ema = 0.9,
    teacher = model, distill = 0.3, clip_norm = 5, freeze = "stem*", patience = 3,
}
test.is_true(full.last.images > 0, "measured")
test.fails("plateau", run, { schedule = "linear", lr_schedule = "plateau" })
test.fails("milestones[1]", run, { lr_schedule = "step", milestones = { "x" } })
test.fails("patience: found -1", run, { patience = -1 })
test.fails("form", run, { form = "round" })
