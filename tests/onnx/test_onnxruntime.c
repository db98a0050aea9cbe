/* The same file, the same input, another runtime: our outputs and onnxruntime's agree. Checks the files named
 * in ESPALIER_ORT_MODELS (separated by blanks; how the tests of the command line use this program), or else
 * models this program saves. Exits with 77, saying why, where onnxruntime cannot be had. */
/* labels: slow */
#include "unit/base/scratch.h"

#include <glob.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/file.h"
#include "base/rng.h"
#include "graph/exec.h"
#include "io/onnx.h"
#include "unit/io/sample.h"

extern char **environ;

enum { BATCH = 2, SKIPPED = 77 };

/* Runs run_ort.js with up to four arguments; its exit status, or SKIPPED when there is no node. */
static int run_script(const char *model, const char *input, const char *shape, const char *output)
{
    static const char script[] = ESP_SOURCE_DIR "/tests/onnx/run_ort.js";
    const char *arguments[] = {"node", script, model, input, shape, output, NULL};
    pid_t child;
    int status;

    if (posix_spawnp(&child, "node", NULL, NULL, (char **)arguments, environ) != 0) {
        printf("skipped: node is not installed\n");
        return SKIPPED;
    }
    if (waitpid(child, &status, 0) != child || !WIFEXITED(status))
        return -1;
    return WEXITSTATUS(status) == 127 ? SKIPPED : WEXITSTATUS(status);
}

/* The executor of a model at a small batch, its input filled with noise. */
static esp_exec *run_ours(const esp_graph *graph)
{
    const esp_value *value = esp_graph_value(graph, esp_graph_input(graph, 0));
    bool is_open = value->shape.rank > 0 && value->shape.dims[0] == ESP_DIM_BATCH;
    esp_exec_options options = {.batch = is_open ? BATCH : 1};
    esp_exec *exec = NULL;
    esp_rng rng;

    assert_int_equal(esp_graph_input_count(graph), 1);
    REQUIRE(esp_exec_new(graph, &options, &exec, err));
    const esp_view *input = esp_exec_input(exec, 0);
    esp_rng_seed(&rng, 4);
    for (int64_t i = 0; i < esp_shape_elements(&input->shape); i++)
        esp_view_f32(input)[i] = (float)esp_rng_normal(&rng);
    REQUIRE(esp_exec_forward(exec, NULL, err));
    return exec;
}

static void compare_output(const char *path, int index, const esp_view *ours, const char *file)
{
    size_t size, count = (size_t)esp_shape_elements(&ours->shape);
    char name[512];
    double largest = 0, worst = 0;

    snprintf(name, sizeof name, index ? "%s.%d" : "%s", file, index);
    float *theirs = (float *)(void *)scratch_read(name, &size);
    assert_int_equal(size, count * sizeof(float));
    for (size_t i = 0; i < count; i++) {
        largest = fmax(largest, fabs((double)theirs[i]));
        worst = fmax(worst, fabs((double)theirs[i] - (double)esp_view_f32(ours)[i]));
    }
    free(theirs);
    /* Other summation orders: relative to the largest output, as for the stored outputs. */
    if (!(worst <= 1e-4 * largest))
        fail_msg("%s: output %d differs by %g, the largest is %g", path, index, worst, largest);
    print_message("%s: output %d differs by %.1e of %.3g\n", esp_path_base(path), index, worst, largest);
}

static void compare_model(const char *path, const char *directory)
{
    esp_graph *graph = NULL;
    char shape[128], input_path[512], output_path[512];

    REQUIRE(esp_onnx_load(path, &graph, err));
    esp_exec *exec = run_ours(graph);
    const esp_view *input = esp_exec_input(exec, 0);
    snprintf(input_path, sizeof input_path, "%s/input.f32", directory);
    snprintf(output_path, sizeof output_path, "%s/output.f32", directory);
    scratch_write(input_path, input->data, (size_t)esp_shape_elements(&input->shape) * sizeof(float));
    esp_shape_format(&input->shape, shape, sizeof shape);
    assert_int_equal(run_script(path, input_path, shape, output_path), 0);
    for (int i = 0; i < esp_graph_output_count(graph); i++)
        compare_output(path, i, esp_exec_output(exec, i), output_path);
    esp_exec_free(exec);
    esp_graph_unref(graph);
}

static void named_models_give_the_same_outputs(void **state)
{
    char *directory = scratch_make(), *names = strdup(getenv("ESPALIER_ORT_MODELS"));

    (void)state;
    assert_non_null(names);
    for (char *rest = names, *name; (name = strtok_r(rest, " ", &rest));)
        compare_model(name, directory);
    free(names);
    scratch_remove(directory);
}

static void save_and_compare(const esp_graph *graph, const char *directory)
{
    const char *path = scratch_path(directory, "saved.onnx");

    REQUIRE(esp_onnx_save(graph, path, err));
    compare_model(path, directory);
}

static void saved_models_give_the_same_outputs(void **state)
{
    const char *names[] = {"resnet20_cifar10",     "resnet20_cifar10_folded", "squeezenet1.0_imagenet",
                           "mobilenetv2_imagenet", "ultraface_rfb_320",       "light/light_densenet121"};
    const int64_t versions[][2] = {{7, 3}, {13, 7}, {21, 10}};
    const char *shared = shared_directory();
    char *directory = scratch_make();

    (void)state;
    for (size_t i = 0; i < sizeof versions / sizeof versions[0]; i++) {
        esp_graph *graph = sample_network(versions[i][0], versions[i][1]);

        save_and_compare(graph, directory);
        esp_graph_unref(graph);
    }
    for (size_t i = 0; shared && i < sizeof names / sizeof names[0]; i++) {
        esp_graph *graph = NULL;
        char path[512];

        snprintf(path, sizeof path, "%s/models/%s.onnx", shared, names[i]);
        REQUIRE(esp_onnx_load(path, &graph, err));
        save_and_compare(graph, directory);
        esp_graph_unref(graph);
    }
    scratch_remove(directory);
}

int main(void)
{
    const struct CMUnitTest named[] = {cmocka_unit_test(named_models_give_the_same_outputs)};
    const struct CMUnitTest saved[] = {cmocka_unit_test(saved_models_give_the_same_outputs)};

    setenv("ESP_BUILD_DIR", ESP_BUILD_DIR, 0);
    if (run_script(NULL, NULL, NULL, NULL) == SKIPPED)
        return SKIPPED;
    if (getenv("ESPALIER_ORT_MODELS"))
        return cmocka_run_group_tests(named, NULL, NULL);
    return cmocka_run_group_tests(saved, NULL, NULL);
}
