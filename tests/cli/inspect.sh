# What inspect prints: receptive fields, memory, coupled sets, in each form and at each width.
. "$(dirname "$0")/lib.inc"
MODEL=$SAMPLES/resnet20.onnx

# figures worked out by hand: 3x3 stem, then 6 convolutions of the first stage at stride 1
expect_out '"receptive_field"' "$ESPALIER" inspect "$MODEL" --json
[ "$(json '[l["receptive_field"] for l in d["layers"] if l["name"]=="layer1.2.conv2"][0]')" = \
    "{'size': [15.0, 15.0], 'stride': [1.0, 1.0]}" ] || fail "receptive field of layer1.2.conv2"
[ "$(json 'd["layers"][-1]["receptive_field"]')" = whole ] || fail "the classifier sees the whole image"
[ "$(json 'd["layers"][0]["activation_bytes"]')" = $((16 * 28 * 28 * 4)) ] || fail "bytes of conv1's output"
json 'd["memory"]["peak"] >= 2*16*28*28*4 and d["memory"]["peak"] < d["memory"]["activations"]' | grep -qx True ||
    fail "a residual block holds two images at once"
json 'd["can_run"] is True and d["why_not"] is None' | grep -qx True || fail "the sample can run"
[ "$(json '[l["coupled_sets"] == d["layers"][0]["coupled_sets"] for l in d["layers"] if l["name"]=="layer1.1.conv2"]')" = \
    "[True]" ] || fail "an addition ties conv1 and layer1.1.conv2"
json 'all("conv1" not in s["written_by"] or "layer1.1.conv2" in s["written_by"] for s in d["sets"])' | grep -qx True ||
    fail "the sets say so too"

# narrow terminals get fewer columns, never longer lines; elsewhere all columns are printed
expect_out "channels" "$ESPALIER" inspect "$MODEL"
for width in 60 80 100 132; do
    COLUMNS=$width "$ESPALIER" inspect "$MODEL" >out.txt
    sed -n '/^layer /,$p' out.txt | awk -v w=$width 'length($0) > w { exit 1 }' || fail "a row is wider than $width"
    grep -q '^layer .* params' out.txt || fail "no params at $width columns"
done
COLUMNS=80 "$ESPALIER" inspect "$MODEL" | awk 'NR > 1 && length($0) > 80 { exit 1 }' || fail "a line is wider than 80"

# Graphviz: every edge joins two boxes that are there, quotes are balanced, names are escaped
cat >check.py <<'PY'
import re, sys
text = open(sys.argv[1], encoding="utf-8").read()
string = r'"(?:[^"\\]|\\.)*"'
assert re.fullmatch(r'digraph ' + string + r' \{\n(?:  [^\n]*;\n)*\}\n', text), "not one statement a line"
nodes, edges = {}, []
for line in text.splitlines()[1:-1]:
    edge = re.fullmatch(r'  (\w+) -> (\w+);', line)
    node = re.fullmatch(r'  (\w+) \[((?:\w+=(?:' + string + r'|\w+)(?:, )?)+)\];', line)
    assert edge or node, line
    if edge:
        edges.append(edge.groups())
    else:
        nodes[node.group(1)] = node.group(2)
assert edges and all(a in nodes and b in nodes for a, b in edges), "an edge to nowhere"
print(len(nodes), len(edges), sum("fillcolor" in n for k, n in nodes.items() if k != "node"))
PY
"$ESPALIER" inspect "$MODEL" --dot >model.dot
/usr/bin/python3 check.py model.dot >counts.txt || fail "the DOT text of ResNet-20"
read -r boxes edges coloured <counts.txt
# 73 nodes, one input, one output, the defaults; 9 additions read one value more than other nodes
[ "$boxes" -eq 76 ] || fail "$boxes boxes"
[ "$edges" -eq 83 ] || fail "$edges edges"
[ "$coloured" -gt 60 ] || fail "only $coloured coloured boxes"
if command -v dot >/dev/null 2>&1; then
    dot -Tplain model.dot >/dev/null || fail "Graphviz does not take the text"
fi
expect 2 "--dot" "$ESPALIER" inspect "$MODEL" --dot --json

# a model that cannot run is looked at as far as it goes, and names may be anything
if /usr/bin/python3 -c 'import onnx' 2>/dev/null; then
    cat >make.py <<'PY'
from onnx import helper, TensorProto, numpy_helper, save
import numpy
def weight(name, *shape):
    return numpy_helper.from_array(numpy.ones(shape, numpy.float32), name)
nodes = [helper.make_node("Conv", ["x", "w"], ["a"], name='first "quoted" \\\\ \n', pads=[1, 1, 1, 1]),
         helper.make_node("Swirl", ["a"], ["b"], name="swirl", domain="com.example"),
         helper.make_node("Conv", ["b", "v"], ["c"], name="second", pads=[1, 1, 1, 1])]
graph = helper.make_graph(nodes, 'odd "graph"',
                          [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 16, 16])],
                          [helper.make_tensor_value_info("c", TensorProto.FLOAT, None)],
                          [weight("w", 8, 3, 3, 3), weight("v", 4, 8, 3, 3)])
save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid("com.example", 1)]),
     "odd.onnx")
PY
    /usr/bin/python3 make.py
    expect_out "swirl" "$ESPALIER" inspect odd.onnx
    grep -q '^second .*unknown' out.txt || { cat out.txt; fail "the second layer's shape is unknown"; }
    expect_out '"can_run": false' "$ESPALIER" inspect odd.onnx --json
    [ "$(json '[l["output"] for l in d["layers"]]')" = "['Nx8x16x16', None]" ] || { cat out.txt; fail "shapes"; }
    [ "$(json '[l["params"] for l in d["layers"]]')" = "[216, 288]" ] || fail "params need no shapes"
    [ "$(json '[l["receptive_field"] and l["receptive_field"]["size"] for l in d["layers"]]')" = "[[3.0, 3.0], None]" ] ||
        fail "nobody knows what the second layer sees"
    [ "$(json 'd["memory"], d["shapes_known"]')" = "None False" ] || fail "memory of unknown shapes"
    "$ESPALIER" inspect odd.onnx --dot >odd.dot
    /usr/bin/python3 check.py odd.dot >counts.txt || { cat odd.dot; fail "the DOT text of odd names"; }
    grep -q 'dashed' odd.dot || fail "what cannot run is marked"
fi

# the op table, without a model
expect_out "Conv " "$ESPALIER" inspect --operators
expect_out '"Conv"' "$ESPALIER" inspect --operators --json
json '[o["gradient"] for o in d["operators"] if o["name"] in ("Conv", "Shape")]' | grep -qx '\[True, False\]' ||
    fail "training passes through Conv, not through Shape"
expect 2 "takes no model" "$ESPALIER" inspect "$MODEL" --operators
expect 2 "0 arguments given" "$ESPALIER" inspect
