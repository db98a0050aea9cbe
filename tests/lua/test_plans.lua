-- Plans in Lua: solved for a budget, compared, merged, fitted to a changed model.
local esp = require "espalier"
local test = require "helpers"

local model = test.small_network(esp, 8)
local whole = model:counts()

-- ---- budgets ----

for _, method in ipairs { "wsp", "sg", "filter" } do
    for _, distribution in ipairs { "uniform", "saliency" } do
        local what = method .. " " .. distribution
        local plan, report = model:solve {
            target = { macs = 0.7, params = "0.9" }, plan = { method = method, groups = 3 }, distribution = distribution,
        }
        local after = model:preview(plan):after()
        test.is_true(after.macs <= 0.7 * whole.macs and after.params <= 0.9 * whole.params, what .. ": both targets hold")
        test.equal(report.amounts.macs.after, after.macs, what .. ": the report's count is the preview's")
        test.equal(report.binding, "macs", what .. ": what binds")
        test.equal(report.distribution, distribution, "distribution")
    end
end

local plan = model:solve { target = "params=0.8", plan = { method = "sg", ratio = { conv = 0, fc = 0.25, border = 0 } }, keep = { "fc" } }
test.equal(plan.ratio.fc, 0.25, "a ratio that is kept")
local amount = model:solve { target = { params = math.floor(0.8 * whole.params) }, plan = { method = "wsp" } }
test.is_true(model:preview(amount):after().params <= 0.8 * whole.params, "an amount")

local _, timed = model:solve { target = { params = 0.8 }, plan = { method = "filter" }, measure = true, repeats = 3, fresh_table = true }
test.is_true(timed.latency.measured_ms > 0 and timed.amounts.latency.after > 0, "measured and predicted latency")

test.equal(test.fails("out of reach", model.solve, model, { target = { params = 0.001 }, plan = { method = "wsp" } }).code,
    "invalid", "code")
test.fails("macs", model.solve, model, { target = { mcas = 0.5 }, plan = { method = "wsp" } })
test.fails("target", model.solve, model, { plan = { method = "wsp" } })
test.fails("plan: missing", model.solve, model, { target = { macs = 0.5 } })
test.fails("uniform", model.solve, model, { target = { macs = 0.5 }, plan = { method = "wsp" }, distribution = "unifrom" })
test.fails("go together", model.solve, model, { target = { macs = 0.5 }, plan = { method = "wsp" }, distribution = "sensitivity" })
test.fails("expected conv, fc or border", model.solve, model, { target = { macs = 0.5 }, plan = { method = "wsp" }, keep = { "dense" } })
test.fails("distribution", model.solve, model, { target = { macs = 0.5 }, plan = { method = "wsp" }, distribtion = "uniform" })

-- ---- plans beside each other ----

local a = { method = "filter", ratio = 0.5, rules = { { layer = "block.*", ratio = 0.25 } } }
local b = { method = "filter", ratio = 0.5, rules = { { layer = "block.conv1", ratio = 0.75 } } }
test.is_true(esp.plan_diff(a, a).same, "a plan is like itself")
local diff = esp.plan_diff(a, b, { model = model })
test.is_true(not diff.same and #diff.changes == 2, "two rules differ")
test.is_true(#diff.layers > 0 and diff.after[1].params > diff.after[2].params, "more goes by b")

local merged, conflicts = esp.plan_merge(a, b, { model = model })
test.equal(#merged.rules, 2, "rules of both")
test.equal(conflicts[1].where, "layer 'block.conv1': ratio", "the conflict")
test.equal(conflicts[1].took, "b", "who wins")
test.equal(model:preview(merged):table().layers[2].asked, 0.75, "b's rule goes over a's")
local ours = esp.plan_merge(a, b, { side = "ours" })
test.equal(model:preview(ours):table().layers[2].asked, 0.25, "ours")
test.fails("rules, ours or theirs", esp.plan_merge, a, b, { side = "mine" })
test.fails("expected a model", esp.plan_diff, a, b, { model = 3 })

-- ---- a changed model ----

b.rules[2] = { layer = "block.conv12", ratio = 0.5 }
test.fails("block.conv1", model.preview, model, b)
local fitted, misfits = model:fit_plan(b)
test.equal(#misfits, 1, "one rule does not fit")
test.equal(misfits[1].kind, "gone", "why")
test.is_true(misfits[1].nearest:find("block.conv", 1, true) == 1, "the nearest")
test.equal(#fitted.rules, 1, "it was dropped")
model:preview(fitted)
local again, nothing = model:fit_plan(fitted, { from = model })
test.equal(#nothing, 0, "the repaired plan fits")
test.is_true(esp.plan_diff(fitted, again).same, "and stays as it is")
