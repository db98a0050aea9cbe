"""Runs ONNX's own checker over files. Usage: check_models.py FILE...

Exit status 77 where the onnx package is missing, 1 when a file fails; every failure is named.
"""
import sys

try:
    import onnx
except ImportError:
    sys.exit(77)

failures = 0
for path in sys.argv[1:]:
    try:
        onnx.checker.check_model(onnx.load(path), full_check=True)
    except Exception as problem:  # the checker raises several unrelated types
        print(f"{path}: {problem}")
        failures += 1
sys.exit(1 if failures else 0)
