# What is cut depends on the weights alone, not on threads or kernels: networks made of ties. Filters that are
# another's negative, that have another's weights in another order (sums of magnitudes far apart, which no double
# holds exactly), and that are another's copy.
. "$(dirname "$0")/lib.inc"
/usr/bin/python3 -c 'import numpy, onnx' 2>/dev/null || { echo "skipped: python3 has no numpy or no onnx"; exit 77; }

/usr/bin/python3 - <<'END'
import numpy as np, onnx
from onnx import helper as h, numpy_helper as nh, TensorProto as T
rng = np.random.default_rng(3)
def network(name, first, second):
    weights = {"w1": first, "w2": second, "w3": rng.normal(size=(10, len(second)))}
    nodes = [h.make_node("Conv", ["x", "w1"], ["a"], "conv1", pads=[1] * 4), h.make_node("Relu", ["a"], ["b"]),
             h.make_node("Conv", ["b", "w2"], ["c"], "conv2", pads=[1] * 4), h.make_node("Relu", ["c"], ["d"]),
             h.make_node("GlobalAveragePool", ["d"], ["e"]), h.make_node("Flatten", ["e"], ["f"]),
             h.make_node("Gemm", ["f", "w3"], ["y"], "fc", transB=1)]
    graph = h.make_graph(nodes, name, [h.make_tensor_value_info("x", T.FLOAT, ["N", 1, 9, 9])],
                         [h.make_tensor_value_info("y", T.FLOAT, ["N", 10])],
                         [nh.from_array(w.astype(np.float32), n) for n, w in weights.items()])
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, name + ".onnx")
filters = 32
one, two = rng.normal(size=(filters // 2, 1, 3, 3)), rng.normal(size=(filters // 2, filters, 3, 3))
network("negatives", np.concatenate([one, -one]), np.concatenate([two, -two]))
far = lambda count: (10.0 ** rng.uniform(-12, 6, size=count)).astype(np.float32)
one, two = far(9), far(9 * filters)
network("orders", np.stack([rng.permutation(one) for _ in range(filters)]).reshape(filters, 1, 3, 3),
        np.stack([rng.permutation(two) for _ in range(filters)]).reshape(filters, filters, 3, 3))
network("copies", np.repeat(rng.normal(size=(8, 1, 3, 3)), 4, 0), np.repeat(rng.normal(size=(8, filters, 3, 3)), 4, 0))
END

# "KERNELS THREADS": the first is what the others must agree with
ways="plain,1"
for kernels in avx2 avx512; do
    "$ESPALIER" saliency copies.onnx --kernels $kernels >/dev/null 2>&1 && ways="$ways $kernels,1 $kernels,3"
done
masks='[layer["mask"] for layer in d["layers"]]'
for model in negatives orders copies; do
    while read -r plan; do
        rm -f wanted
        for way in $ways; do
            # shellcheck disable=SC2086
            expect_out '"layers"' "$ESPALIER" prune $model.onnx $plan --dry-run --json --kernels "${way%,*}" --threads "${way#*,}"
            json "$masks" >found
            [ -f wanted ] || cp found wanted
            cmp -s wanted found || fail "$model, $plan: kernels and threads $way cut something else than $ways"
        done
    done <<'END'
-m wsp -r 0.5
-m wsp -r 0.5 --scope global
-m wsp -r 0.5 --mode faithful
-m filter -c l1 -r 0.4
-m filter -c l2 -r 0.4
-m filter -c fpgm -r 0.4
-m filter -c lamp -r 0.4 --scope global
-m sg -r 0.5 --groups 8
-m sg -r 0.5 --groups 8 --mode faithful
END
done
