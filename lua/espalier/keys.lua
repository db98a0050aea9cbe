-- Keyword tables: keys.check(options, {"a", "b"}) returns the options ({} for nil) or raises, at the place that called the
-- function that checks, what is wrong. `required` are keys that must be there.

local keys = {}

local function raise(text, ...)
    error(text:format(...), 4)
end

function keys.check(options, allowed, required)
    if options ~= nil and type(options) ~= "table" then
        raise("found a %s, expected a table of options such as { %s = ... }", type(options), allowed[1])
    end
    local is_allowed = {}
    for _, name in ipairs(allowed) do
        is_allowed[name] = true
    end
    for key in pairs(options or {}) do
        if not is_allowed[key] then
            raise("unknown key '%s', expected %s", tostring(key), table.concat(allowed, ", "))
        end
    end
    for _, name in ipairs(required or {}) do
        if options == nil or options[name] == nil then
            raise("%s is missing", name)
        end
    end
    return options or {}
end

return keys
