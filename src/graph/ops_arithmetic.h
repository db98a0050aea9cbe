/* What the operator files of arithmetic share (ops_elementwise.c has the definitions). */
#ifndef ESP_GRAPH_OPS_ARITHMETIC_H
#define ESP_GRAPH_OPS_ARITHMETIC_H

#include "graph/ops.h"
#include "tensor/elementwise.h"
#include "tensor/typed.h"

/* ESP_SHAPE unless all inputs from `first` on are of one type. */
esp_status esp_op_expect_one_type(const esp_infer_context *context, int first, esp_error *err);

/* The shape all inputs from `first` on broadcast to. */
esp_status esp_op_broadcast_inputs(const esp_infer_context *context, int first, esp_shape *out,
                                   esp_error *err);

bool esp_op_is_all_f32(const esp_op_context *context);

/* Inputs 0 and 1 of any type into output 0; an error message for a division by zero. */
esp_status esp_op_typed_binary(const esp_op_context *context, esp_typed_kind kind, esp_error *err);

/* Inputs 0 and 1 into output 0, all in channel blocks, with the clip that was joined to an addition. */
esp_status esp_op_blocked_binary(const esp_op_context *context, esp_binary_kind kind);

#endif
