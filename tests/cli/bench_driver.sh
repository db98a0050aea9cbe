# tests/bench/run.js: its list has every landmark's case, and bad usage is told. Nothing is measured here.
. "$(dirname "$0")/lib.inc"
command -v node >where.txt || { echo "skipped: node is not installed"; exit 77; }
RUN=$ESP_SOURCE_DIR/tests/bench/run.js

node "$RUN" --list --threads 1,2 >out.txt || fail "--list"
for name in inference/vgg16/b8/t2 inference/resnet50/b1/t1 inference/densenet121/b1/t1 inference/densenet201/b8/t1 \
    inference/resnet20/b32/t2 training/resnet20/b128/t1 training/resnet50/b16/t2 grouped-layers/resnet50/0.7/t1 \
    grouped-network/resnet50/0.8/t1 threads/resnet50/b1/t2 threads/lenet5/b1/t2 memory/resnet50/b1 kmeans/resnet50/t2 \
    selection/t1; do
    grep -qx "$name" out.txt || { cat out.txt; fail "no case $name"; }
done
[ "$(sort out.txt | uniq -d | wc -l)" -eq 0 ] || fail "a name is there twice"
node "$RUN" --list --only memory/ >out.txt
grep -qv '^memory/' out.txt && { cat out.txt; fail "--only chooses by name"; }
expect 2 "--list shows them" node "$RUN" --built --only nothing-of-this-name
expect 2 "unknown option '--quik'" node "$RUN" --quik
