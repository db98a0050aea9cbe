-- What `espalier zoo` does: plain data in and out.
local esp = require "espalier"

local command = {}

-- What went wrong, in the words of the command line: {code, message, hint}, without places in the library's files.
local function failure(raised)
    if type(raised) ~= "table" then
        raised = { code = "invalid", message = tostring(raised) }
    end
    local message = raised.message:gsub("^[^\n]-%.lua:%d+: ", "")
    local hint = raised.hint and raised.hint:gsub("strict = false", "--partial")
    return { error = { code = raised.code, message = message, hint = hint } }
end

local function protected(run, ...)
    local ok, result = pcall(run, ...)
    return ok and result or failure(result)
end

function command.list()
    return { networks = esp.zoo.list() }
end

local function make(request)
    local options = request.options
    local model, report = esp.zoo[request.name](options)
    if request.path then
        model:save(request.path)
    end
    local counts = model:counts()
    return { model = request.path, name = request.name, params = counts.params, macs = counts.macs,
        paper = { params = counts.paper_params, macs = counts.paper_macs }, weights = report }
end

-- { name, path (nil: only count), options }: the network's counts, and what was loaded.
function command.make(request)
    return protected(make, request)
end

return command
