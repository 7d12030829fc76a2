// ONNX by ONNX Runtime, on the CPU.
#include <onnxruntime_cxx_api.h>

#include "program.h"

namespace detexport {
namespace {

Tensor from_ort(const Ort::Value& value) {
    static const std::map<ONNXTensorElementDataType, std::string> names = {
        {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, "float32"}, {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, "int64"},
        {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, "int32"},   {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, "uint8"},
        {ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, "bool"}};
    const Ort::TensorTypeAndShapeInfo info = value.GetTensorTypeAndShapeInfo();
    const auto name = names.find(info.GetElementType());
    return {name == names.end() ? "ONNX type " + std::to_string(info.GetElementType()) : name->second, info.GetShape(),
            value.GetTensorRawData()};
}

Session open_onnx_runtime(const Artifact& artifact, const Options& options) {
    const auto environment = std::make_shared<Ort::Env>(ORT_LOGGING_LEVEL_ERROR, "detexport");
    Ort::SessionOptions settings;
    settings.SetIntraOpNumThreads(options.threads);
    const auto session = std::make_shared<Ort::Session>(*environment, artifact.main_file.c_str(), settings);
    return [environment, session, contract = artifact.contract](const Image& image) {
        const auto cpu = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
        const int64_t shape[] = {3, image.size.height, image.size.width};
        // ONNX Runtime takes a pointer that it does not write to.
        Ort::Value input = Ort::Value::CreateTensor<uint8_t>(cpu, const_cast<uint8_t*>(image.pixels.data()),
                                                             image.pixels.size(), shape, 3);
        const char* input_name = contract.input_name.c_str();
        std::vector<const char*> output_names;
        for (const TensorSpec& spec : contract.outputs) output_names.push_back(spec.name.c_str());
        std::vector<Tensor> outputs;
        for (const Ort::Value& output : session->Run(Ort::RunOptions{}, &input_name, &input, 1, output_names.data(),
                                                     output_names.size()))
            outputs.push_back(from_ort(output));
        return outputs;
    };
}

}  // namespace
}  // namespace detexport

int main(int argc, char** argv) { return detexport::run_program(argc, argv, "ONNX", detexport::open_onnx_runtime); }
