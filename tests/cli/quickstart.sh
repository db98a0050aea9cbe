# labels: slow
# The tour without a terminal: builds, prunes by both methods at three ratios, prints the table, draws the figure.
. "$(dirname "$0")/lib.inc"
cd "$ESP_SOURCE_DIR"
rm -f build/first_prune.png
scripts/quickstart.sh </dev/null >"$SCRATCH/tour.txt" 2>&1 || { cat "$SCRATCH/tour.txt"; fail "the tour failed"; }
[ "$(grep -cE '^(WSP|SG) 0\.[0-9] +[0-9.]+k' "$SCRATCH/tour.txt")" -eq 6 ] || { cat "$SCRATCH/tour.txt"; fail "no table of six rows"; }
head -c 4 build/first_prune.png | grep -q PNG || fail "no figure"
