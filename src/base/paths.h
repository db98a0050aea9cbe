/* Where the program's own files are: sample models, Lua library, scripts. */
#ifndef ESP_BASE_PATHS_H
#define ESP_BASE_PATHS_H

#include "base/status.h"

/* The version of this build, e.g. "0.1.0". */
const char *esp_version(void);

/* The path of a file or directory that came with the program, `relative` as in the source tree
 * ("sample_models/lenet5.onnx", "lua"). Looked for in the directory named by the environment variable
 * ESPALIER_DATA_DIR, then in ../share/espalier beside the running program, then in the source directory of
 * the build. `*out` is a new string (esp_free). ESP_IO, naming the places, when it is in none of them. */
esp_status esp_data_path(const char *relative, char **out, esp_error *err);

#endif
