// Run ONNX models with ONNX Runtime, on the CPU.
#include <onnxruntime_cxx_api.h>

#include "program.h"

namespace detexport {
namespace {

// Return the graph's inputs, in the contract's order.
std::vector<Ort::Value> to_ort(const Given& given, const Contract& contract) {
    // ONNX Runtime requires non-const pointers, but does not write to inputs.
    const auto cpu = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const auto& [size, pixels] = given.image;
    const std::array<int64_t, 3> shape = {3, size.height, size.width};
    std::vector<Ort::Value> inputs;
    inputs.push_back(Ort::Value::CreateTensor<uint8_t>(cpu, const_cast<uint8_t*>(pixels.data()),
                                                       pixels.size(), shape.data(), shape.size()));
    if (contract.input_names.size() > 1) {
        const int64_t length = 2;
        const auto sides = const_cast<int64_t*>(given.output_size.data());
        inputs.push_back(Ort::Value::CreateTensor<int64_t>(cpu, sides, length, &length, 1));
    }
    return inputs;
}

Tensor from_ort(const Ort::Value& value) {
    static const std::map<ONNXTensorElementDataType, std::string> names = {
        {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, "float32"},
        {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, "int64"},
        {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, "int32"},
        {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, "uint8"},
        {ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, "bool"}};
    const Ort::TensorTypeAndShapeInfo info = value.GetTensorTypeAndShapeInfo();
    const auto name = names.find(info.GetElementType());
    return {name == names.end() ? "ONNX type " + std::to_string(info.GetElementType()) : name->second,
            info.GetShape(), value.GetTensorRawData()};
}

Session open_onnx_runtime(const Artifact& artifact, const Options& options) {
    if (!OrtGetApiBase()->GetApi(ORT_API_VERSION))
        throw Error(
            "ONNX Runtime is older than the headers that this program was built with",
            {OrtGetApiBase()->GetVersionString(), "1." + std::to_string(ORT_API_VERSION) + " or later",
             "install a later ONNX Runtime, or build with its own headers"});
    const auto environment = std::make_shared<Ort::Env>(ORT_LOGGING_LEVEL_ERROR, "detexport");
    Ort::SessionOptions settings;
    settings.SetIntraOpNumThreads(options.threads);
    const auto session = std::make_shared<Ort::Session>(*environment, artifact.main_file.c_str(), settings);
    return [environment, session, contract = artifact.contract](const Given& given) {
        const std::vector<Ort::Value> inputs = to_ort(given, contract);
        std::vector<const char*> input_names, output_names;
        for (const std::string& name : contract.input_names) input_names.push_back(name.c_str());
        for (const TensorSpec& spec : contract.outputs) output_names.push_back(spec.name.c_str());
        std::vector<Tensor> outputs;
        for (const Ort::Value& output : session->Run(Ort::RunOptions{}, input_names.data(), inputs.data(),
                                                     inputs.size(), output_names.data(), output_names.size()))
            outputs.push_back(from_ort(output));
        return outputs;
    };
}

}  // namespace
}  // namespace detexport

int main(int argc, char** argv) {
    return detexport::run_program(argc, argv, "ONNX", detexport::open_onnx_runtime);
}
