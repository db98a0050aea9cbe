/* What loading a model costs against reading its file: seconds of both (the fastest of several turns, page
 * cache warm) and the largest memory of a process that does nothing but load, against the file's size.
 *
 *   bench_load MODEL.onnx [TURNS]
 *
 * prints one JSON object. Every turn is a process of its own: a second load in one process would find memory
 * that the first has left behind. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "io/onnx.h"

typedef struct turn {
    double seconds;
    long peak_kb;
} turn;

static double read_file(const char *path)
{
    struct stat info;
    double start = esp_clock_s();
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);

    if (descriptor < 0 || fstat(descriptor, &info) != 0)
        return -1;
    size_t size = (size_t)info.st_size, done = 0;
    char *data = malloc(size);
    while (data && done < size) {
        ssize_t count = read(descriptor, data + done, size - done);

        if (count <= 0)
            return -1;
        done += (size_t)count;
    }
    double seconds = data ? esp_clock_s() - start : -1;
    free(data);
    close(descriptor);
    return seconds;
}

static double load_model(const char *path)
{
    esp_graph *graph;
    esp_error err = {0};
    double start = esp_clock_s();

    if (esp_onnx_load(path, &graph, &err) != ESP_OK) {
        fprintf(stderr, "bench_load: %s\n", err.message);
        return -1;
    }
    double seconds = esp_clock_s() - start;
    esp_graph_unref(graph);
    return seconds;
}

/* One turn in a child; false when it failed. */
static bool take_turn(double (*work)(const char *path), const char *path, turn *out)
{
    int ends[2], status = 0;
    struct rusage usage;
    double seconds = -1;

    if (pipe(ends) != 0)
        return false;
    pid_t child = fork();
    if (child == 0) {
        seconds = work(path);
        _exit(write(ends[1], &seconds, sizeof seconds) == (ssize_t)sizeof seconds ? 0 : 1);
    }
    close(ends[1]);
    bool is_read = child > 0 && read(ends[0], &seconds, sizeof seconds) == (ssize_t)sizeof seconds;
    close(ends[0]);
    if (child <= 0 || wait4(child, &status, 0, &usage) != child || !is_read || seconds < 0)
        return false;
    *out = (turn){seconds, usage.ru_maxrss};
    return true;
}

int main(int argc, char **argv)
{
    int turns = argc > 2 ? atoi(argv[2]) : 7;
    turn reading = {1e9, 0}, loading = {1e9, 0}, now;
    struct stat info;

    if (argc < 2 || turns < 1 || stat(argv[1], &info) != 0) {
        fprintf(stderr, "Usage: bench_load MODEL.onnx [TURNS]\n");
        return 2;
    }
    for (int i = 0; i < turns; i++) {
        if (!take_turn(read_file, argv[1], &now))
            return 1;
        reading.seconds = now.seconds < reading.seconds ? now.seconds : reading.seconds;
        if (!take_turn(load_model, argv[1], &now))
            return 1;
        loading.seconds = now.seconds < loading.seconds ? now.seconds : loading.seconds;
        loading.peak_kb = now.peak_kb > loading.peak_kb ? now.peak_kb : loading.peak_kb;
    }
    printf("{\"model\": \"%s\", \"bytes\": %lld, \"read_s\": %.4f, \"load_s\": %.4f, \"time_ratio\": %.3f, "
           "\"peak_bytes\": %lld, \"memory_ratio\": %.3f}\n",
           argv[1], (long long)info.st_size, reading.seconds, loading.seconds,
           loading.seconds / reading.seconds, (long long)loading.peak_kb * 1024,
           (double)loading.peak_kb * 1024 / (double)info.st_size);
    return 0;
}
