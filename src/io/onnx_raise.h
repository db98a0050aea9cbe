/* Models of opset 1 to 6 in the forms of opset 7, the first one that is read. */
#ifndef ESP_IO_ONNX_RAISE_H
#define ESP_IO_ONNX_RAISE_H

#include "io/onnx_internal.h"

/* Changes a decoded model of an older opset in place; others stay as they are. What became different in opset
 * 7:
 * - arithmetic broadcasts from the last dims on. Attribute `axis` said before where the second operand
 * begins: it gets dims of 1 behind its own (an Unsqueeze). The slopes of PRelu, one per channel, too.
 * - `broadcast`, `is_test` and `consumed_inputs` are gone.
 * Operators that changed otherwise are read as opset 7 has them, and refused where they do not fit.
 * ESP_UNSUPPORTED names the node whose operands' ranks would have to be known. */
esp_status esp_onnx_raise(Onnx__ModelProto *model, esp_error *err);

#endif
