-- Tables and counts as text.
local esp = require "espalier"
local test = require "helpers"

test.equal(esp.count(950), "950")
test.equal(esp.count(270896), "270.9k")
test.equal(esp.count(25549000), "25.55M")
test.equal(esp.count(4.089e9), "4.089G")

test.equal(esp.table { { "model", "top-1" }, { "a", "9.50" }, { "longer", "91.20" } },
    "model   top-1\n------  -----\na        9.50\nlonger  91.20")
test.equal(esp.table { { "±" }, { "é" } }, "±\n-\né", "widths count letters, not bytes")

test.equal(esp.table { { "a" }, { "\xff" } }, "a\n-\n\xff", "bytes that are no letters")
test.equal(esp.count(0.4), "0", "a count that is not whole")

esp.plot({
    title = "it's drawn", x_label = "x", y_label = "y",
    series = { { title = "one", x = { 1, 2 }, y = { 3, 4 }, error = { 0.1, 0.2 }, labels = { "a", 'b "q"' } } },
}, "figure.png")
test.equal(io.open("figure.png", "rb"):read(4), "\137PNG", "a PNG file")
