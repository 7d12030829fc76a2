// Convert between libtorch's tensors and detexport's.
#pragma once

#include <ATen/Parallel.h>
#include <dlfcn.h>
#include <torch/script.h>

#include "program.h"
#include "torchvision_library.h"

namespace detexport {

// Load the library of torchvision's operators (nms, roi_align), which registers them. The environment
// variable TORCHVISION_OPERATORS overrides the library of the build.
inline void load_torchvision_operators() {
    const char* other = std::getenv("TORCHVISION_OPERATORS");
    const std::string path = other ? other : TORCHVISION_OPERATORS_LIBRARY;
    if (!dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL))
        throw Error("torchvision's operators cannot be loaded",
                    {dlerror(), "the _C_stable.so of the torchvision for this libtorch",
                     "set the environment variable TORCHVISION_OPERATORS to its path"});
}

// Return the graph's inputs, in the contract's order.
inline std::vector<torch::Tensor> to_torch(const Given& given, const Contract& contract) {
    // libtorch requires non-const pointers; graphs do not write to their inputs.
    const auto pixels = const_cast<uint8_t*>(given.image.pixels.data());
    const auto [height, width] = given.image.size;
    std::vector<torch::Tensor> inputs = {torch::from_blob(pixels, {3, height, width}, torch::kUInt8)};
    if (contract.input_names.size() > 1)
        inputs.push_back(
            torch::from_blob(const_cast<int64_t*>(given.output_size.data()), {2}, torch::kInt64));
    return inputs;
}

inline Tensor from_torch(const torch::Tensor& tensor) {
    static const std::map<torch::ScalarType, std::string> names = {{torch::kFloat32, "float32"},
                                                                   {torch::kInt64, "int64"},
                                                                   {torch::kInt32, "int32"},
                                                                   {torch::kUInt8, "uint8"},
                                                                   {torch::kBool, "bool"}};
    const auto name = names.find(tensor.scalar_type());
    const torch::Tensor dense = tensor.to(torch::kCPU).contiguous();
    return {name == names.end() ? torch::toString(tensor.scalar_type()) : name->second, dense.sizes().vec(),
            dense.const_data_ptr()};
}

}  // namespace detexport
