/* The checker is the distribution's Python package; it runs as a program of its own (check_models.py). */
#include "onnx/checker.h"

#include <glob.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "unit/base/scratch.h"

extern char **environ;

bool onnx_checker_accepts(const char *directory)
{
    char pattern[512], script[] = ESP_SOURCE_DIR "/tests/onnx/check_models.py";
    glob_t files;
    pid_t child;
    int status;

    snprintf(pattern, sizeof pattern, "%s/*.onnx", directory);
    assert_int_equal(glob(pattern, GLOB_NOSORT, NULL, &files), 0);
    char **arguments = calloc(files.gl_pathc + 3, sizeof *arguments);
    assert_non_null(arguments);
    arguments[0] =
        (char *)"/usr/bin/python3"; /* the distribution's: its onnx package is not seen by others */
    arguments[1] = script;
    memcpy(arguments + 2, files.gl_pathv, files.gl_pathc * sizeof *arguments);
    bool is_started = posix_spawn(&child, arguments[0], NULL, NULL, arguments, environ) == 0;
    free(arguments);
    globfree(&files);
    if (!is_started)
        return false;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77 || WEXITSTATUS(status) == 127)
        return false;
    assert_int_equal(WEXITSTATUS(status), 0);
    return true;
}
