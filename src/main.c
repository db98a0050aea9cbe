/* The program: the command line, with the workbench handed to it. */
#include "cli/cli.h"
#include "ui/app.h"

static esp_status open_workbench(const esp_workbench_request *request, esp_error *err)
{
    ui_app_options options = {
        .model_path = request->model,
        .data_spec = request->data,
        .study_directory = request->study,
        .threads = request->threads,
        .theme = request->theme,
        .trace_path = request->trace,
        .is_ascii = request->is_ascii,
        .inputs = request->inputs,
        .input_count = request->input_count,
    };
    return ui_app_run(&options, err);
}

int main(int argc, char **argv)
{
    return esp_cli_main(argc, argv, open_workbench);
}
