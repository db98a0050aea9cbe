-- Rows of cells as text: the first row is the heading, numbers stand right, everything else left.

local function is_numeric(cell)
    return cell:match("^[-+]?[%d.]") ~= nil
end

-- Letters of a text; bytes where it is not UTF-8.
local function width_of(text)
    return utf8.len(text) or #text
end

return function(rows)
    local widths, lines = {}, {}
    for _, row in ipairs(rows) do
        for column, cell in ipairs(row) do
            widths[column] = math.max(widths[column] or 0, width_of(tostring(cell)))
        end
    end
    for number, row in ipairs(rows) do
        local cells = {}
        for column, cell in ipairs(row) do
            local text = tostring(cell)
            local padding = string.rep(" ", widths[column] - width_of(text))
            local sample = rows[2] and tostring(rows[2][column]) or ""
            local stands_right = is_numeric(number == 1 and sample or text)
            cells[column] = stands_right and padding .. text or text .. padding
        end
        lines[#lines + 1] = (table.concat(cells, "  "):gsub("%s+$", ""))
        if number == 1 then
            for column, width in ipairs(widths) do
                cells[column] = string.rep("-", width)
            end
            lines[#lines + 1] = table.concat(cells, "  ")
        end
    end
    return table.concat(lines, "\n")
end
