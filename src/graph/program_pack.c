/* Packed weights and folded normalisation of a program.
 *
 * What is made of one constant and has a key hangs on the constant's tensor and is shared with every executor
 * that packs it alike (esp_tensor_derived). What is made of several constants, or of parameters, lies in a
 * block of the program: parameters are packed again when their generation has changed, so an evaluation packs
 * once. Where contents change with every run (training; weights computed by the network) packing happens just
 * before the step, into scratch memory, where the result is still in the caches when the step reads it. */
#include "base/memory.h"
#include "graph/ops.h"
#include "graph/program_internal.h"

static size_t aligned(size_t bytes)
{
    return (bytes + ESP_ALIGNMENT - 1) / ESP_ALIGNMENT * ESP_ALIGNMENT;
}

/* How fixed what a pack is made of is. */
static esp_pack_time pack_time(const esp_compiler *c, const esp_step *step, const esp_op_pack *pack)
{
    esp_pack_time time = ESP_PACK_ONCE;
    for (int i = 0; i < step->input_count; i++) {
        int v = step->inputs[i];
        bool is_data = esp_bit(step->layouts.blocked_inputs, i) || i == 0 ||
                       (i == ESP_CONV_RESIDUAL && step->fused.group != NULL);
        if (v < 0 || c->is_static[v] || (pack->input >= 0 ? pack->input != i : is_data))
            continue;
        bool changes = c->request->is_training || esp_compiler_param(c, v) == NULL;
        if (changes)
            return ESP_PACK_ALWAYS;
        time = ESP_PACK_CHANGED;
    }
    return time;
}

typedef struct pack_job {
    const esp_step *step;
    int index;
} pack_job;

static esp_status make_pack(void *user, void *target, esp_error *err)
{
    const pack_job *job = user;
    const esp_op_context *context = &job->step->context;
    esp_status status = job->step->op->pack(context, job->index, target);
    return status == ESP_OK ? status : esp_fail(err, status, "node '%s': packing", context->node->name);
}

static bool is_shared(const esp_compiler *c, const esp_step *step, int index)
{
    const esp_op_pack *pack = &step->packs[index];
    return step->pack_times[index] == ESP_PACK_ONCE && pack->key != 0 &&
           esp_inferred_constant(c->request->inferred, step->inputs[pack->input]) != NULL;
}

/* Reads the rows' wishes and adds up what the program must hold itself. */
static void find_packs(esp_compiler *c)
{
    for (int s = 0; s < c->program->step_count; s++) {
        esp_step *step = &c->program->steps[s];
        if (step->op->packs == NULL)
            continue;
        step->op->packs(&step->context, step->packs);
        for (int i = 0; i < ESP_OP_PACKS; i++) {
            if (step->packs[i].bytes == 0)
                continue;
            step->pack_times[i] = pack_time(c, step, &step->packs[i]);
            if (step->pack_times[i] != ESP_PACK_ALWAYS && !is_shared(c, step, i))
                c->program->packed_bytes += aligned(step->packs[i].bytes);
        }
    }
}

static esp_status place_pack(esp_compiler *c, esp_step *step, int index, char **next, esp_error *err)
{
    const esp_op_pack *pack = &step->packs[index];
    pack_job job = {.step = step, .index = index};
    if (pack->bytes == 0 || step->pack_times[index] == ESP_PACK_ALWAYS)
        return ESP_OK;
    if (is_shared(c, step, index)) {
        const void *shared;
        const esp_tensor *tensor = esp_inferred_constant(c->request->inferred, step->inputs[pack->input]);
        esp_status status = esp_tensor_derived(tensor, pack->key, pack->bytes, make_pack, &job, &shared, err);
        step->context.packed[index] = (void *)(uintptr_t)shared; /* read only from here on */
        c->program->shared_packed_bytes += status == ESP_OK ? pack->bytes : 0;
        return status;
    }
    step->context.packed[index] = *next;
    *next += aligned(pack->bytes);
    return step->pack_times[index] == ESP_PACK_ONCE ? make_pack(&job, step->context.packed[index], err)
                                                    : ESP_OK;
}

/* ---- weights that are needed in packed form only ---- */

/* Input `index` of a step, when the step reads something packed of it instead. */
static bool is_replaced(const esp_step *step, int index)
{
    for (int i = 0; i < ESP_OP_PACKS; i++) {
        const esp_op_pack *pack = &step->packs[i];
        if (pack->bytes > 0 && esp_bit(pack->replaces, index) && step->pack_times[i] == ESP_PACK_ONCE)
            return true;
    }
    return false;
}

/* last[v]: the last step that packs value v, when no step reads it otherwise; else -1. */
static void find_last_packers(const esp_compiler *c, int *last)
{
    const esp_program *program = c->program;
    for (int v = 0; v < c->value_count; v++)
        last[v] = -1;
    for (int s = 0; s < program->step_count; s++) {
        const esp_step *step = &program->steps[s];
        for (int i = 0; i < step->input_count; i++) {
            if (step->inputs[i] >= 0 && step->inputs[i] < c->value_count)
                last[step->inputs[i]] = s;
        }
    }
    for (int s = 0; s < program->step_count; s++) {
        const esp_step *step = &program->steps[s];
        for (int i = 0; i < step->input_count; i++) {
            int v = step->inputs[i];
            if (v >= 0 && v < c->value_count && !is_replaced(step, i))
                last[v] = -1;
        }
    }
    for (int i = 0; i < program->output_count; i++) {
        if (program->outputs[i] < c->value_count)
            last[program->outputs[i]] = -1;
    }
}

static void spend(esp_compiler *c, const int *last, int s)
{
    const esp_step *step = &c->program->steps[s];
    for (int i = 0; i < step->input_count; i++) {
        int v = step->inputs[i];
        const esp_tensor *constant = v >= 0 && v < c->value_count && last[v] == s
                                         ? esp_inferred_constant(c->request->inferred, v)
                                         : NULL;
        if (constant != NULL && esp_tensor_spend(constant))
            c->program->values[v].data = NULL;
    }
}

/* Layer by layer, so that never more than one layer's weights are there twice. */
static esp_status pack_and_spend(esp_compiler *c, char *next, esp_error *err)
{
    esp_program *program = c->program;
    int *last = esp_arena_alloc(c->arena, (size_t)c->value_count, sizeof *last);
    esp_status status = last == NULL ? esp_compiler_no_memory(err) : ESP_OK;
    if (status == ESP_OK)
        find_last_packers(c, last);
    for (int s = 0; status == ESP_OK && s < program->step_count; s++) {
        for (int i = 0; status == ESP_OK && i < ESP_OP_PACKS; i++)
            status = place_pack(c, &program->steps[s], i, &next, err);
        if (status == ESP_OK && c->request->spends_weights)
            spend(c, last, s);
    }
    return status;
}

esp_status esp_compiler_pack(esp_compiler *c, esp_error *err)
{
    esp_program *program = c->program;
    find_packs(c);
    program->packed = esp_alloc(program->packed_bytes, 1);
    if (program->packed == NULL)
        return esp_fail_memory(err, "packed weights", program->packed_bytes);
    return pack_and_spend(c, program->packed, err);
}

/* ---- runs ---- */

static esp_status refresh_step(esp_step *step, const esp_compute *compute, esp_error *err)
{
    esp_status status = ESP_OK;
    step->context.compute = compute;
    for (int i = 0; status == ESP_OK && i < ESP_OP_PACKS; i++) {
        pack_job job = {.step = step, .index = i};
        if (step->packs[i].bytes > 0 && step->pack_times[i] == ESP_PACK_CHANGED)
            status = make_pack(&job, step->context.packed[i], err);
    }
    return status;
}

esp_status esp_program_refresh(esp_program *program, const esp_params *params, const esp_compute *compute,
                               esp_error *err)
{
    uint64_t generation = params == NULL ? 0 : esp_params_generation(params);
    esp_status status = ESP_OK;
    if (generation == program->packed_generation)
        return ESP_OK;
    for (int s = 0; status == ESP_OK && s < program->step_count; s++)
        status = refresh_step(&program->steps[s], compute, err);
    program->packed_generation = status == ESP_OK ? generation : 0;
    return status;
}

esp_status esp_step_pack(const esp_step *step, bool is_backward)
{
    esp_status status = ESP_OK;
    for (int i = 0; status == ESP_OK && i < ESP_OP_PACKS; i++) {
        const esp_op_pack *pack = &step->packs[i];
        if (pack->bytes > 0 && step->pack_times[i] == ESP_PACK_ALWAYS && pack->is_for_backward == is_backward)
            status = step->op->pack(&step->context, i, step->context.packed[i]);
    }
    return status;
}
