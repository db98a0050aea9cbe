-- Keyword tables: keys.check(options, {"a", "b"}) returns the options ({} for nil) or raises, at the place that called the
-- function that checks, what is wrong. `required` are keys that must be there. `frames` is how many calls further out the
-- caller is to blame.
local core = require "espalier.core"

local keys = {}

-- "unknown key 'clases', did you mean 'classes'? (known: input, classes)"
function keys.unknown(what, word, known)
    local nearest = core.nearest(tostring(word), known)
    return ("unknown %s '%s', %s%s%s"):format(what, tostring(word),
        nearest and ("did you mean '%s'? (known: "):format(nearest) or "expected ", table.concat(known, ", "),
        nearest and ")" or "")
end

function keys.check(options, allowed, required, frames)
    local level = 3 + (frames or 0)
    if options ~= nil and type(options) ~= "table" then
        core.fail(("found a %s, expected a table of options such as { %s = ... }"):format(type(options), allowed[1]), level)
    end
    local is_allowed = {}
    for _, name in ipairs(allowed) do
        is_allowed[name] = true
    end
    for key in pairs(options or {}) do
        if not is_allowed[key] then
            core.fail(keys.unknown("key", key, allowed), level)
        end
    end
    for _, name in ipairs(required or {}) do
        if options == nil or options[name] == nil then
            core.fail(("%s is missing"):format(name), level)
        end
    end
    return options or {}
end

return keys
