// Run OpenVINO IRs with OpenVINO, on the CPU.
#include <algorithm>
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

// Return whether a value is a constant, possibly converted to another type.
bool is_constant(const ov::Output<ov::Node>& value) {
    std::shared_ptr<ov::Node> node = value.get_node_shared_ptr();
    while (std::string(node->get_type_name()) == "Convert") node = node->get_input_node_shared_ptr(0);
    return std::string(node->get_type_name()) == "Constant";
}

// Return the inputs of an operator that are coordinates, or computed from them: masks are pasted, and heatmaps
// resized, by products with interpolation weights that depend on a box. Same as in
// src/detexport/runtime/openvino.py.
std::vector<size_t> coordinate_ports(const ov::Node& node) {
    static const std::map<std::string, std::vector<size_t>> read_at = {
        {"ROIAlign", {1, 2}}, {"GridSample", {1}}, {"ROIPooling", {1}}};
    const std::string type = node.get_type_name();
    if (type == "MatMul" && !is_constant(node.input_value(0)) && !is_constant(node.input_value(1))) return {0, 1};
    const auto ports = read_at.find(type);
    return ports == read_at.end() ? std::vector<size_t>{} : ports->second;
}

// Add the coordinates at which features are read as outputs, which nobody reads. With the 8 significant bits
// of bfloat16, a box at 800 px would be rounded to 4 px; OpenVINO keeps the operators between the last layer
// with weights and an output in float32.
void keep_coordinates_float32(ov::Model& model) {
    std::vector<ov::Output<ov::Node>> coordinates;
    for (const auto& node : model.get_ordered_ops())
        for (const size_t port : coordinate_ports(*node)) {
            const ov::Output<ov::Node> value = node->input_value(port);
            const bool known = std::find(coordinates.begin(), coordinates.end(), value) != coordinates.end();
            if (value.get_element_type() == ov::element::f32 && !known) coordinates.push_back(value);
        }
    for (const auto& value : coordinates) model.add_output(value);
}

Session open_openvino(const Artifact& artifact, const Options& options) {
    ov::Core core;
    const ov::element::Type precision = options.precision == "f32" ? ov::element::f32 : ov::element::bf16;
    // Always set: OpenVINO's default is bfloat16 if the CPU supports it.
    ov::AnyMap settings = {ov::hint::inference_precision(precision),
                           ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY)};
    if (options.threads) settings.insert(ov::inference_num_threads(options.threads));
    const std::shared_ptr<ov::Model> graph = core.read_model(artifact.main_file);
    if (options.precision != "f32") keep_coordinates_float32(*graph);
    ov::CompiledModel model = core.compile_model(graph, "CPU", settings);
    if (const auto taken = model.get_property(ov::hint::inference_precision); taken != precision)
        throw Error("OpenVINO does not compute in " + options.precision + " on this CPU",
                    {taken.get_type_name(), options.precision, "choose --precision f32"});
    ov::InferRequest request = model.create_infer_request();
    return [request, contract = artifact.contract](const Given& given) mutable {
        // OpenVINO requires non-const pointers, but does not write to inputs.
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
