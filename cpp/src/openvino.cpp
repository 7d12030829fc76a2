// OpenVINO IR by OpenVINO, on the CPU.
#include <openvino/openvino.hpp>

#include "program.h"

namespace detexport {
namespace {

Tensor from_openvino(const ov::Tensor& tensor) {
    static const std::map<std::string, std::string> names = {
        {"f32", "float32"}, {"i64", "int64"}, {"i32", "int32"}, {"u8", "uint8"}, {"boolean", "bool"}};
    const std::string type = tensor.get_element_type().get_type_name();
    const ov::Shape shape = tensor.get_shape();
    const auto name = names.find(type);
    return {name == names.end() ? type : name->second, {shape.begin(), shape.end()}, tensor.data()};
}

Session open_openvino(const Artifact& artifact, const Options& options) {
    ov::Core core;
    const ov::element::Type precision = options.precision == "f32" ? ov::element::f32 : ov::element::bf16;
    // OpenVINO takes bfloat16 by itself where the processor has it.
    ov::AnyMap settings = {ov::hint::inference_precision(precision),
                           ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY)};
    if (options.threads) settings.insert(ov::inference_num_threads(options.threads));
    ov::CompiledModel model = core.compile_model(artifact.main_file, "CPU", settings);
    if (const auto taken = model.get_property(ov::hint::inference_precision); taken != precision)
        throw Error("OpenVINO does not compute in " + options.precision + " on this processor",
                    {taken.get_type_name(), options.precision, "choose --precision f32"});
    ov::InferRequest request = model.create_infer_request();
    return [request, contract = artifact.contract](const Given& given) mutable {
        // OpenVINO takes pointers that it does not write to.
        const auto& [size, pixels] = given.image;
        const ov::Shape shape = {3, size_t(size.height), size_t(size.width)};
        request.set_tensor(contract.input_names[0],
                           {ov::element::u8, shape, const_cast<uint8_t*>(pixels.data())});
        if (contract.input_names.size() > 1)
            request.set_tensor(contract.input_names[1],
                               {ov::element::i64, {2}, const_cast<int64_t*>(given.output_size.data())});
        request.infer();
        std::vector<Tensor> outputs;
        for (const TensorSpec& spec : contract.outputs)
            outputs.push_back(from_openvino(request.get_tensor(spec.name)));
        return outputs;
    };
}

}  // namespace
}  // namespace detexport

int main(int argc, char** argv) {
    return detexport::run_program(argc, argv, "OpenVINO IR", detexport::open_openvino);
}
