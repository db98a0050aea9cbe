/* ONNX's own checker, run over files. */
#ifndef ESP_TESTS_ONNX_CHECKER_H
#define ESP_TESTS_ONNX_CHECKER_H

#include <stdbool.h>

/* Runs the checker in full mode over every .onnx file of a directory; a file it does not accept fails the
 * test. False when it is not installed. */
bool onnx_checker_accepts(const char *directory);

#endif
