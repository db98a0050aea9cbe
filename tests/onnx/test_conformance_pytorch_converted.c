/* The stored cases of ONNX's group 'pytorch-converted'. */
#include "onnx/conformance.h"

int main(int argc, char **argv)
{
    return conformance_main("pytorch-converted", argc, argv);
}
