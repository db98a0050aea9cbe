/* One case. Inputs are given at run time as ONNX's runner does; when the program cannot prepare the model so,
 * the case is tried again with some inputs as constants of the model: first those of integers, then all but
 * the first, then all. Constants are put into the decoded message, which is packed again: what runs is always
 * a whole file through esp_onnx_parse. */
#include "onnx/conformance.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "graph/exec.h"
#include "graph/op.h"
#include "io/onnx.h"
#include "io/onnx_internal.h"

enum { INPUTS_MAX = 32, OUTPUTS_MAX = 16, PATH_SIZE = 1400, FILE_SIZE = PATH_SIZE + 64 };

const char *case_outcome_word(case_outcome outcome)
{
    static const char *const words[] = {
#define CASE_WORD(name, word) word,
        CASE_OUTCOMES(CASE_WORD)
#undef CASE_WORD
    };
    return words[outcome];
}

/* What of the inputs becomes a constant. */
typedef enum binding { BIND_NONE, BIND_INTEGERS, BIND_ALL_BUT_FIRST, BIND_ALL, BINDING_COUNT } binding;

typedef struct stored_tensor {
    Onnx__TensorProto *proto;
    esp_tensor *tensor;
} stored_tensor;

/* One data set of a case. */
typedef struct data_set {
    int input_count, output_count;
    stored_tensor inputs[INPUTS_MAX], outputs[OUTPUTS_MAX];
    const char *input_names[INPUTS_MAX]; /* of the model */
} data_set;

typedef struct run_state {
    const char *directory;
    Onnx__ModelProto *model;
    data_set set;
    case_result *result;
} run_state;

static void release_stored(stored_tensor *stored)
{
    esp_tensor_unref(stored->tensor);
    if (stored->proto != NULL)
        onnx__tensor_proto__free_unpacked(stored->proto, NULL);
    *stored = (stored_tensor){0};
}

static void release_set(data_set *set)
{
    for (int i = 0; i < set->input_count; i++)
        release_stored(&set->inputs[i]);
    for (int i = 0; i < set->output_count; i++)
        release_stored(&set->outputs[i]);
    *set = (data_set){0};
}

static case_outcome outcome_of(esp_status status)
{
    return status == ESP_UNSUPPORTED ? CASE_UNSUPPORTED : CASE_FAILED;
}

static void finish(case_result *result, case_outcome outcome, const char *text)
{
    result->outcome = outcome;
    snprintf(result->reason, sizeof result->reason, "%s", text);
}

/* ---- comparing ---- */

static bool is_close(double found, double expected)
{
    if (isnan(found) || isnan(expected))
        return isnan(found) && isnan(expected);
    if (isinf(found) || isinf(expected))
        return found == expected;
    return fabs(found - expected) <= CASE_ATOL + CASE_RTOL * fabs(expected);
}

bool case_compare(const esp_view *found, const esp_view *expected, char *reason, size_t size)
{
    char left[96], right[96];
    if (found->dtype != expected->dtype) {
        snprintf(reason, size, "type %s, expected %s", esp_dtype_name(found->dtype),
                 esp_dtype_name(expected->dtype));
        return false;
    }
    if (!esp_shape_equal(&found->shape, &expected->shape)) {
        snprintf(reason, size, "shape %s, expected %s", esp_shape_format(&found->shape, left, sizeof left),
                 esp_shape_format(&expected->shape, right, sizeof right));
        return false;
    }
    int64_t count = esp_shape_elements(&found->shape), wrong = 0, worst = 0;
    double worst_difference = -1.0;
    if (count > 0 && found->data == NULL) {
        snprintf(reason, size, "not computed");
        return false;
    }
    for (int64_t i = 0; i < count; i++) {
        double f = esp_view_get_f64(found, i), e = esp_view_get_f64(expected, i), difference = fabs(f - e);
        if (found->dtype == ESP_F32 ? is_close(f, e) : f == e)
            continue;
        wrong++;
        difference = isnan(difference) ? INFINITY : difference;
        if (difference > worst_difference) {
            worst_difference = difference;
            worst = i;
        }
    }
    if (wrong > 0)
        snprintf(reason, size,
                 "%" PRId64 " of %" PRId64 " elements differ, most at %" PRId64 ": %.6g, expected %.6g",
                 wrong, count, worst, esp_view_get_f64(found, worst), esp_view_get_f64(expected, worst));
    return wrong == 0;
}

/* ---- reading ---- */

static esp_status read_message(const char *path, const ProtobufCMessageDescriptor *type,
                               ProtobufCMessage **out, esp_error *err)
{
    char *data;
    size_t size;
    esp_status status = esp_file_read(path, &data, &size, err);
    if (status != ESP_OK)
        return status;
    *out = protobuf_c_message_unpack(type, NULL, size, (const uint8_t *)data);
    esp_free(data);
    return *out != NULL ? ESP_OK : esp_fail(err, ESP_FORMAT, "%s: damaged", path);
}

/* bfloat16 is stored as uint16, because numpy has no such type: the model's declaration tells. */
static void mark_bfloat(Onnx__TensorProto *proto, const Onnx__ValueInfoProto *declared)
{
    if (proto->data_type == ONNX__TENSOR_PROTO__DATA_TYPE__UINT16 &&
        declared->type->tensor_type->elem_type == ONNX__TENSOR_PROTO__DATA_TYPE__BFLOAT16)
        proto->data_type = ONNX__TENSOR_PROTO__DATA_TYPE__BFLOAT16;
}

static esp_status read_stored(const char *directory, const char *what, int index,
                              const Onnx__ValueInfoProto *declared, stored_tensor *out, esp_error *err)
{
    char path[FILE_SIZE];
    ProtobufCMessage *message = NULL;
    snprintf(path, sizeof path, "%s/%s_%d.pb", directory, what, index);
    esp_status status = read_message(path, &onnx__tensor_proto__descriptor, &message, err);
    if (status != ESP_OK)
        return status;
    out->proto = (Onnx__TensorProto *)message;
    mark_bfloat(out->proto, declared);
    status = esp_onnx_tensor_read(out->proto, NULL, &out->tensor, err);
    if (status != ESP_OK) {
        esp_error_prefix(err, "%s %d", what, index);
        return status;
    }
    /* Reading may have taken the bytes out of the message, which is written into models later. */
    onnx__tensor_proto__free_unpacked(out->proto, NULL);
    status = read_message(path, &onnx__tensor_proto__descriptor, &message, err);
    out->proto = status == ESP_OK ? (Onnx__TensorProto *)message : NULL;
    if (status == ESP_OK)
        mark_bfloat(out->proto, declared);
    return status;
}

static bool is_stored(const char *directory, const char *what, int index)
{
    char path[FILE_SIZE];
    snprintf(path, sizeof path, "%s/%s_%d.pb", directory, what, index);
    return esp_file_exists(path);
}

static bool is_initializer(const Onnx__GraphProto *graph, const char *name)
{
    for (size_t i = 0; i < graph->n_initializer; i++) {
        if (strcmp(graph->initializer[i]->name, name) == 0)
            return true;
    }
    return false;
}

static esp_status check_is_tensor(const Onnx__ValueInfoProto *info, const char *what, esp_error *err)
{
    if (info->type != NULL && info->type->value_case == ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE)
        return ESP_OK;
    return esp_fail(err, ESP_UNSUPPORTED, "%s '%s' is no tensor", what, info->name);
}

static esp_status read_set(const Onnx__GraphProto *graph, const char *directory, data_set *set,
                           esp_error *err)
{
    esp_status status = ESP_OK;
    *set = (data_set){0};
    for (size_t i = 0; status == ESP_OK && i < graph->n_input; i++) {
        if (is_initializer(graph, graph->input[i]->name) ||
            !is_stored(directory, "input", set->input_count) || set->input_count == INPUTS_MAX)
            continue;
        int k = set->input_count++;
        set->input_names[k] = graph->input[i]->name;
        status = check_is_tensor(graph->input[i], "input", err);
        if (status == ESP_OK)
            status = read_stored(directory, "input", k, graph->input[i], &set->inputs[k], err);
    }
    for (size_t i = 0; status == ESP_OK && i < graph->n_output && i < OUTPUTS_MAX; i++) {
        status = check_is_tensor(graph->output[i], "output", err);
        if (status == ESP_OK)
            status = read_stored(directory, "output", set->output_count++, graph->output[i], &set->outputs[i],
                                 err);
    }
    return status;
}

/* ---- running ---- */

static bool is_bound(const data_set *set, int index, binding how)
{
    switch (how) {
    case BIND_NONE:
        return false;
    case BIND_INTEGERS:
        return esp_tensor_dtype(set->inputs[index].tensor) != ESP_F32;
    case BIND_ALL_BUT_FIRST:
        return index > 0;
    default:
        return true;
    }
}

static int bound_count(const data_set *set, binding how)
{
    int count = 0;
    for (int i = 0; i < set->input_count; i++)
        count += is_bound(set, i, how);
    return count;
}

/* The model as a file in memory, with the bound inputs among its initializers. */
static uint8_t *pack_model(run_state *state, binding how, size_t *out_size)
{
    Onnx__GraphProto *graph = state->model->graph;
    Onnx__TensorProto **stored = graph->initializer;
    size_t stored_count = graph->n_initializer;
    Onnx__TensorProto *all[stored_count + INPUTS_MAX];
    Onnx__TensorProto copies[INPUTS_MAX];
    for (size_t i = 0; i < stored_count; i++)
        all[i] = stored[i];
    for (int i = 0; i < state->set.input_count; i++) {
        if (!is_bound(&state->set, i, how))
            continue;
        copies[i] = *state->set.inputs[i].proto;
        copies[i].name = (char *)state->set.input_names[i];
        all[graph->n_initializer++] = &copies[i];
    }
    graph->initializer = all;
    *out_size = onnx__model_proto__get_packed_size(state->model);
    uint8_t *bytes = malloc(*out_size + 1);
    if (bytes != NULL)
        onnx__model_proto__pack(state->model, bytes);
    graph->initializer = stored;
    graph->n_initializer = stored_count;
    return bytes;
}

static int find_input(const data_set *set, const char *name)
{
    for (int i = 0; i < set->input_count; i++) {
        if (strcmp(set->input_names[i], name) == 0)
            return i;
    }
    return -1;
}

/* Sets the inputs of an executor, and runs it. */
static esp_status fill_and_run(const data_set *set, const esp_graph *graph, esp_exec *exec, esp_error *err)
{
    for (int i = 0; i < esp_graph_input_count(graph); i++) {
        const char *name = esp_graph_value(graph, esp_graph_input(graph, i))->name;
        int k = find_input(set, name);
        const esp_view *view = esp_exec_input(exec, i);
        if (k < 0)
            return esp_fail(err, ESP_SHAPE, "no data for input '%s'", name);
        const esp_tensor *tensor = set->inputs[k].tensor;
        if (view->data == NULL)
            continue; /* nobody reads it */
        if (view->dtype != esp_tensor_dtype(tensor) ||
            !esp_shape_equal(&view->shape, esp_tensor_shape(tensor)))
            return esp_fail(err, ESP_SHAPE, "input '%s' became another type or shape", name);
        memcpy(view->data, esp_tensor_data(tensor),
               (size_t)esp_tensor_elements(tensor) * esp_dtype_size(view->dtype));
    }
    return esp_exec_forward(exec, NULL, err);
}

static bool outputs_agree(const data_set *set, const esp_exec *exec, char *reason, size_t size)
{
    for (int i = 0; i < set->output_count; i++) {
        char difference[256];
        esp_view expected = esp_tensor_view(set->outputs[i].tensor);
        if (case_compare(esp_exec_output(exec, i), &expected, difference, sizeof difference))
            continue;
        snprintf(reason, size, "output %d: %s", i, difference);
        return false;
    }
    return true;
}

/* `*agrees` tells, when all ran, whether the outputs are the expected ones. */
static esp_status run_graph(const data_set *set, const esp_graph *graph, const esp_engine *engine,
                            bool *agrees, char *reason, size_t size, esp_error *err)
{
    esp_input_shape shapes[INPUTS_MAX];
    int shape_count = 0;
    for (int i = 0; i < esp_graph_input_count(graph); i++) {
        const char *name = esp_graph_value(graph, esp_graph_input(graph, i))->name;
        int k = find_input(set, name);
        if (k >= 0)
            shapes[shape_count++] = (esp_input_shape){name, *esp_tensor_shape(set->inputs[k].tensor)};
    }
    esp_exec_options options = {
        .batch = 1, .input_shapes = shapes, .input_shape_count = shape_count, .engine = engine};
    esp_exec *exec = NULL;
    esp_status status = esp_exec_new(graph, &options, &exec, err);
    if (status == ESP_OK)
        status = fill_and_run(set, graph, exec, err);
    if (status == ESP_OK)
        *agrees = outputs_agree(set, exec, reason, size);
    esp_exec_free(exec);
    return status;
}

/* The case with inputs bound so; any error means that the model could not be run like this. */
static esp_status run_bound(run_state *state, binding how, bool *agrees, char *reason, size_t reason_size,
                            esp_error *err)
{
    const esp_engine plain = {.isa = ESP_ISA_PLAIN};
    size_t size;
    esp_graph *graph = NULL;
    uint8_t *bytes = pack_model(state, how, &size);
    if (bytes == NULL)
        return esp_fail_memory(err, "a model", size);
    esp_status status = esp_onnx_parse(bytes, size, "model", &graph, err);
    free(bytes);
    if (status == ESP_OK)
        status = run_graph(&state->set, graph, NULL, agrees, reason, reason_size, err);
    if (status == ESP_OK && *agrees)
        status = run_graph(&state->set, graph, &plain, agrees, reason, reason_size, err);
    esp_graph_unref(graph);
    return status;
}

/* The message without the name of the file in front. */
static const char *without_file(const esp_error *err)
{
    static const char prefix[] = "model: ";
    bool has_prefix = strncmp(err->message, prefix, sizeof prefix - 1) == 0;
    return err->message + (has_prefix ? sizeof prefix - 1 : 0);
}

static void run_set(run_state *state)
{
    esp_error first = {0}, err = {0};
    esp_status status = ESP_INTERNAL;
    bool agrees = false;
    char reason[sizeof state->result->reason] = "";
    int bound_before = -1;
    for (int how = BIND_NONE; how < BINDING_COUNT && status != ESP_OK; how++) {
        int bound = bound_count(&state->set, (binding)how);
        if (bound == bound_before)
            continue;
        bound_before = bound;
        status = run_bound(state, (binding)how, &agrees, reason, sizeof reason, &err);
        if (status != ESP_OK && how == BIND_NONE)
            first = err;
        if (status == ESP_OK && bound > 0)
            state->result->needs_constants = true;
    }
    if (status != ESP_OK)
        finish(state->result, outcome_of(first.code), without_file(&first));
    else
        finish(state->result, agrees ? CASE_PASSED : CASE_FAILED, reason);
}

/* ---- the case ---- */

static bool is_listed(const case_result *result, const char *name)
{
    for (int i = 0; i < result->operator_count; i++) {
        if (strcmp(result->operators[i], name) == 0)
            return true;
    }
    return false;
}

static int64_t default_opset(const Onnx__ModelProto *model)
{
    for (size_t i = 0; i < model->n_opset_import; i++) {
        const char *domain = model->opset_import[i]->domain;
        if (domain == NULL || domain[0] == '\0' || strcmp(domain, "ai.onnx") == 0)
            return model->opset_import[i]->version;
    }
    return 0;
}

/* Fills the list; the reason names the first operator without a row. Older models are raised when they are
 * read (io/onnx_raise.h). */
static void list_operators(const Onnx__ModelProto *model, case_result *result)
{
    int64_t stored = default_opset(model), opset = stored < ESP_OPSET_FIRST ? ESP_OPSET_FIRST : stored;
    result->operators_are_known = true;
    for (size_t n = 0; n < model->graph->n_node; n++) {
        const Onnx__NodeProto *node = model->graph->node[n];
        char name[sizeof result->operators[0]];
        bool is_own = node->domain == NULL || node->domain[0] == '\0' || strcmp(node->domain, "ai.onnx") == 0;
        snprintf(name, sizeof name, "%s%s%s", is_own ? "" : node->domain, is_own ? "" : ".", node->op_type);
        if (is_listed(result, name) || result->operator_count == CASE_OPERATORS_MAX)
            continue;
        snprintf(result->operators[result->operator_count++], sizeof name, "%s", name);
        if (esp_op_find(name, opset, NULL) != NULL)
            continue;
        if (result->operators_are_known)
            snprintf(result->reason, sizeof result->reason, "operator %s of opset %" PRId64, name, stored);
        result->operators_are_known = false;
    }
}

static void run_sets(run_state *state)
{
    esp_error err = {0};
    for (int k = 0; k == 0 || state->result->outcome == CASE_PASSED; k++) {
        char directory[PATH_SIZE];
        snprintf(directory, sizeof directory, "%s/test_data_set_%d", state->directory, k);
        if (!esp_file_is_directory(directory)) {
            if (k == 0)
                finish(state->result, CASE_FAILED, "it has no stored data");
            return;
        }
        esp_status status = read_set(state->model->graph, directory, &state->set, &err);
        if (status == ESP_OK)
            run_set(state);
        else
            finish(state->result, outcome_of(status), err.message);
        release_set(&state->set);
    }
}

void case_run(const char *directory, case_result *out)
{
    char path[PATH_SIZE];
    esp_error err = {0};
    ProtobufCMessage *message = NULL;
    run_state state = {.directory = directory, .result = out};
    *out = (case_result){.outcome = CASE_UNSUPPORTED};
    snprintf(path, sizeof path, "%s/model.onnx", directory);
    esp_status status = read_message(path, &onnx__model_proto__descriptor, &message, &err);
    if (status != ESP_OK) {
        finish(out, outcome_of(status), err.message);
        return;
    }
    state.model = (Onnx__ModelProto *)message;
    list_operators(state.model, out);
    if (out->operators_are_known)
        run_sets(&state);
    onnx__model_proto__free_unpacked(state.model, NULL);
}
