/* The stored cases of ONNX's group 'pytorch-operator'. */
#include "onnx/conformance.h"

int main(int argc, char **argv)
{
    return conformance_main("pytorch-operator", argc, argv);
}
